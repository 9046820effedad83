"""What a second worker brings: `protect --method random` by one, by two, and by two of Dask.

Run: .venv/bin/python benchmarks/engines.py [--slices 4000] [--repeats 3]
It needs 6 GB in the folder for temporary files (TMPDIR), and two cores with nothing else to do.

The last two rows are what the machine allows: half of the export by one process, and both halves
by two that know nothing of each other. What two cost more than one is no engine's doing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import arguments, compile_bytecode, write_results  # noqa: E402

LIBRARIES = ("salm_dicom", "pydicom", "numpy", "distributed")
SERIES = 20
SIDE = 512
TARGETS = {"two_to_one": 1.8, "dask_to_local": 0.95}
Command = list[str | Path]


def protect(source: Path, out: Path, *options: str) -> Command:
    """Return the command a user would type."""
    return [
        sys.executable, "-m", "salm_dicom", "protect", source, "-o", out,
        "--method", "random", "--progress", "none", *options,
    ]  # fmt: skip


def seconds(*commands: Command) -> float:
    """Return how long the commands take, started together."""
    os.sync()
    start = time.perf_counter()
    running = [subprocess.Popen(c, cwd=ROOT, stdout=subprocess.DEVNULL) for c in commands]
    if any([process.wait() for process in running]):
        raise SystemExit(f"{commands} failed")
    return time.perf_counter() - start


@contextmanager
def cluster() -> Iterator[str]:
    """Give the address of a Dask scheduler with two workers of one thread, already running."""
    command = [sys.executable, __file__, "--cluster"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        if process.stdout is None or not (address := process.stdout.readline().strip()):
            raise SystemExit("no Dask cluster could be started")
        yield address
    finally:
        process.communicate()


def serve() -> None:
    """Run a cluster until standard input ends."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as found:
        print(re.sub("^tcp", "dask", found.scheduler_address), flush=True)
        sys.stdin.read()


def make_export(folder: Path, slices: int) -> None:
    """Write twenty series of twenty patients, ten of them in each half."""
    from tests.synthetic import write_ct_series

    for index in range(SERIES):
        write_ct_series(
            folder / f"half{index % 2}" / f"SYN{index:03d}", slices=slices // SERIES, rows=SIDE,
            columns=SIDE, patient_id=f"SYN{index:03d}", seed=index,
        )  # fmt: skip


def measure(slices: int, repeats: int, folder: Path) -> dict[str, float]:
    """Return the median seconds of every contestant, taken in turns there and back."""
    source = folder / "source"
    make_export(source, slices)
    compile_bytecode()
    half, other = source / "half0", source / "half1"

    def contestants(out: Path, address: str) -> dict[str, Callable[[], float]]:
        one = ("--jobs", "1")
        return {
            "one": lambda: seconds(protect(source, out / "a", *one)),
            "two": lambda: seconds(protect(source, out / "a", "--jobs", "2")),
            "dask": lambda: seconds(protect(source, out / "a", "--engine", address)),
            "half": lambda: seconds(protect(half, out / "a", *one)),
            "halves": lambda: seconds(
                protect(half, out / "a", *one), protect(other, out / "b", *one)
            ),
        }

    runs: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for name in sorted(contestants(folder, ""), reverse=bool(repeat % 2)):
            with tempfile.TemporaryDirectory(dir=folder) as scratch, cluster() as address:
                found = contestants(Path(scratch), address)[name]()
            runs.setdefault(name, []).append(found)
            print(f"{name}: {found:.1f} s", file=sys.stderr)
    return {name: median(found) for name, found in runs.items()}


def summary(found: dict[str, float], slices: int) -> dict[str, float]:
    """Return slices per second and the ratios that are looked for."""
    whole = {f"{name}_slices_per_s": slices / found[name] for name in ("one", "two", "dask")}
    return whole | {
        "two_to_one": found["one"] / found["two"],
        "dask_to_local": found["two"] / found["dask"],
        "two_processes_to_one": 2 * found["half"] / found["halves"],
    }


def table(numbers: dict[str, float]) -> str:
    """Return the table that is printed, in Markdown."""
    rows = [
        ("`protect --jobs 1`, slices/s", "one_slices_per_s"),
        ("`protect --jobs 2`, slices/s", "two_slices_per_s"),
        ("`protect --engine dask://...`, two workers, slices/s", "dask_slices_per_s"),
        ("two workers to one", "two_to_one"),
        ("Dask to the local pool, two workers each", "dask_to_local"),
        ("two processes that share nothing to one: what the machine allows",
         "two_processes_to_one"),
    ]  # fmt: skip
    lines = ["| | measured | target |", "|---|---|---|"]
    for title, key in rows:
        is_ratio = "_to_" in key
        value = f"{numbers[key]:.2f}x" if is_ratio else f"{numbers[key]:.0f}"
        target = f"{TARGETS[key]:.2f}x" if key in TARGETS else ""
        lines.append(f"| {title} | {value} | {target} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the numbers as JSON."""
    parser = arguments(__doc__, "engines")
    parser.add_argument("--slices", type=int, default=4000, help="in all; twenty series (4000)")
    parser.add_argument("--cluster", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cluster:
        serve()
        return
    with tempfile.TemporaryDirectory(prefix="salm-engines-") as folder:
        found = measure(options.slices, options.repeats, Path(folder))
    numbers = summary(found, options.slices)
    print(table(numbers))
    write_results(
        options.json, LIBRARIES,
        slices=options.slices, repeats=options.repeats, median_seconds=found, numbers=numbers,
    )  # fmt: skip


if __name__ == "__main__":
    main()
