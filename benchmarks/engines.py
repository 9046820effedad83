"""What a second worker brings: `protect --method random` by one, by two, and by two of Dask.

Run: .venv/bin/python benchmarks/engines.py [--slices 4000] [--repeats 3] [--only two dask]
Linux; 6 GB in the folder for temporary files (TMPDIR) for 4,000 slices, and two cores with nothing
else to do.

The last rows are what the machine allows, half of the export by one process and both halves by two
that know nothing of each other, and how much of that two workers reach. Ratios are medians of those
of each turn. A virtual machine whose host takes its processors away in the middle of a run measures
the host: such runs are repeated, and how many is told.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import arguments, compile_bytecode, write_results  # noqa: E402

LIBRARIES = ("salm_dicom", "pydicom", "numpy", "distributed")
SLICES_OF_A_SERIES = 200
SIDE = 512
# What is compared is next to one another: the host's speed drifts.
CONTESTANTS = ("one", "two", "dask", "half", "halves")
RATIOS = (  # of seconds: title, numerator, denominator, and how much more the second one does
    ("two_to_one", "one", "two", 1),
    ("dask_to_local", "two", "dask", 1),
    ("two_processes_to_one", "half", "halves", 2),
)
TARGETS = {"two_to_one": 1.8, "dask_to_local": 0.95, "two_to_one_to_allowed": 0.95}
# Of the time of all processors, what a host may have taken during a run that counts; and how often
# a run is repeated at most.
STOLEN = 0.02
TRIES = 4
# How long a cluster is left alone that has just begun: it is one that runs already.
SETTLED_S = 2
# As docs/explanation/scaling.md says: a scheduler and workers that do not watch themselves.
CALM = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "5s",
    "DASK_DISTRIBUTED__WORKER__PRELOAD": "salm_dicom.batch.apart",
}
Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class Timed:
    """A run: its seconds, the share of processor time that the host took, runs before it."""

    seconds: float
    stolen: float
    repeated: int = 0


def protect(source: Path, out: Path, *options: str) -> Command:
    """Return the command a user would type."""
    return [
        sys.executable, "-m", "salm_dicom", "protect", source, "-o", out,
        "--method", "random", "--progress", "none", *options,
    ]  # fmt: skip


def processor_times() -> list[int]:
    """Return ticks of all processors: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:9]]


def timed(*commands: Command) -> Timed:
    """Run the commands, started together, to their end."""
    os.sync()
    before, start = processor_times(), time.perf_counter()
    running = [subprocess.Popen(c, cwd=ROOT, stdout=subprocess.DEVNULL) for c in commands]
    if any([process.wait() for process in running]):
        raise SystemExit(f"{commands} failed")
    taken = time.perf_counter() - start
    ticks = [after - tick for tick, after in zip(before, processor_times(), strict=True)]
    return Timed(taken, ticks[-1] / sum(ticks))


def undisturbed(run: Callable[[], Timed]) -> Timed:
    """Return a run during which the host took next to nothing; else the last of some."""
    for repeated in range(TRIES):
        found = replace(run(), repeated=repeated)
        if found.stolen <= STOLEN:
            break
    return found


@contextmanager
def cluster() -> Iterator[str]:
    """Give the address of a Dask scheduler with two workers of one thread, already running."""
    command = [sys.executable, __file__, "--cluster"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env=os.environ | CALM,
    )  # fmt: skip
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
    """Write series of as many patients, every second one in each half."""
    from tests.synthetic import write_ct_series

    for index in range(slices // SLICES_OF_A_SERIES):
        write_ct_series(
            folder / f"half{index % 2}" / f"SYN{index:03d}", slices=SLICES_OF_A_SERIES, rows=SIDE,
            columns=SIDE, patient_id=f"SYN{index:03d}", seed=index,
        )  # fmt: skip


def measure(
    slices: int, repeats: int, folder: Path, names: Sequence[str] = CONTESTANTS
) -> list[dict[str, Timed]]:
    """Return the runs of the contestants named, taken in turns there and back."""
    source = folder / "source"
    make_export(source, slices)
    compile_bytecode()
    half, other = source / "half0", source / "half1"
    one = ("--jobs", "1")
    contestants: dict[str, Callable[[Path, str], Timed]] = {
        "one": lambda out, _: timed(protect(source, out / "a", *one)),
        "two": lambda out, _: timed(protect(source, out / "a", "--jobs", "2")),
        "dask": lambda out, address: timed(protect(source, out / "a", "--engine", address)),
        "half": lambda out, _: timed(protect(half, out / "a", *one)),
        "halves": lambda out, _: timed(
            protect(half, out / "a", *one), protect(other, out / "b", *one)
        ),
    }

    def run(name: str) -> Timed:
        with tempfile.TemporaryDirectory(dir=folder) as scratch, cluster() as address:
            time.sleep(SETTLED_S)
            return contestants[name](Path(scratch), address)

    turns = []
    for repeat in range(repeats):
        turn = {}
        for name in names[:: -1 if repeat % 2 else 1]:
            turn[name] = undisturbed(partial(run, name))
            print(f"{name}: {turn[name]}", file=sys.stderr)
        turns.append(turn)
    return turns


def summary(turns: list[dict[str, Timed]], slices: int) -> dict[str, float]:
    """Return slices per second, the ratios that are looked for, and their least and most."""
    numbers = {
        f"{name}_slices_per_s": median(slices / turn[name].seconds for turn in turns)
        for name in ("one", "two", "dask")
        if name in turns[0]
    }
    ratios = {
        title: [times * turn[first].seconds / turn[second].seconds for turn in turns]
        for title, first, second, times in RATIOS
        if {first, second} <= turns[0].keys()
    }
    if {"two_to_one", "two_processes_to_one"} <= ratios.keys():
        pairs = zip(ratios["two_to_one"], ratios["two_processes_to_one"], strict=True)
        ratios["two_to_one_to_allowed"] = [ours / allowed for ours, allowed in pairs]
    for title, found in ratios.items():
        numbers[title] = median(found)
        numbers[f"{title}_least"], numbers[f"{title}_most"] = min(found), max(found)
    return numbers | {"runs_repeated": sum(run.repeated for turn in turns for run in turn.values())}


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
        ("two workers to one, of what the machine allows", "two_to_one_to_allowed"),
    ]  # fmt: skip
    lines = ["| | measured | target |", "|---|---|---|"]
    for title, key in rows:
        if key not in numbers:
            continue
        is_ratio = "_to_" in key
        value = f"{numbers[key]:.0f}"
        if is_ratio:
            least, most = numbers[f"{key}_least"], numbers[f"{key}_most"]
            value = f"{numbers[key]:.2f}x ({least:.2f} to {most:.2f})"
        target = f"{TARGETS[key]:.2f}x" if key in TARGETS else ""
        lines.append(f"| {title} | {value} | {target} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the numbers as JSON."""
    parser = arguments(__doc__, "engines")
    several = f"in all, {SLICES_OF_A_SERIES} in a series (4000)"
    parser.add_argument("--slices", type=int, default=4000, help=several)
    parser.add_argument(
        "--only", nargs="+", choices=CONTESTANTS, default=CONTESTANTS, help="of the contestants"
    )
    parser.add_argument("--cluster", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cluster:
        serve()
        return
    if options.slices % (2 * SLICES_OF_A_SERIES):
        parser.error(f"--slices is a multiple of {2 * SLICES_OF_A_SERIES}: two halves of series")
    with tempfile.TemporaryDirectory(prefix="salm-engines-") as folder:
        turns = measure(options.slices, options.repeats, Path(folder), options.only)
    numbers = summary(turns, options.slices)
    print(table(numbers))
    print(f"\n{numbers['runs_repeated']:.0f} runs were repeated, as the host took processors away.")
    write_results(
        options.json, LIBRARIES,
        slices=options.slices, numbers=numbers,
        turns=[{name: asdict(run) for name, run in turn.items()} for turn in turns],
    )  # fmt: skip


if __name__ == "__main__":
    main()
