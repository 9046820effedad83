"""Speed and memory of `protect --method random` against raw pydicom, on a synthetic CT export.

Run: make bench, or .venv/bin/python benchmarks/pipeline.py [--slices 2000] [--repeats 3]
It needs 3 GB in the folder for temporary files; set TMPDIR if that is not on a disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import Run, arguments, compile_bytecode, run, write_results  # noqa: E402

SERIES = 10
SIDE = 512
LIBRARIES = ("salm_dicom", "pydicom", "numpy", "torch")


def raw_pydicom(source: Path, out: Path) -> None:
    """Read, decode and write every file with pydicom alone: what protecting must compete with."""
    import pydicom

    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.PixelData = dataset.pixel_array.tobytes()
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(target)


def splice(source: Path, out: Path) -> None:
    """Read, decode and write every file by splicing: our half of what `raw_pydicom` does."""
    from salm_dicom.dicom.derive import PUBLIC_SITE_KEY, Derivation, derived
    from salm_dicom.dicom.part10 import read
    from salm_dicom.dicom.pixels import stored_values
    from salm_dicom.record import ProtectionRecord

    record = ProtectionRecord(
        method="random", extent="slice", epsilon=4 / 255, budget_modality=6.0, budget_stored=6,
        units="HU", intensity_range=(-160.0, 240.0), rho=0.2, foreground_share=0.5,
        changed_share=0.2, largest_change_stored=6, largest_change_modality=6.0, digest="0" * 64,
    )  # fmt: skip
    derivation = Derivation(record=record, created=datetime.now(UTC), site_key=PUBLIC_SITE_KEY)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        file = read(path)
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(derived(file, stored_values(file), derivation))


def protect_in_process(source: Path, out: Path) -> None:
    """Protect like the command line does, in this process, so that start-up can be left out."""
    from click.testing import CliRunner

    from salm_dicom.cli.main import main

    result = CliRunner().invoke(main, protect_arguments(source, out, jobs=1))
    if result.exit_code:
        raise SystemExit(f"protect ended with {result.exit_code}: {result.output[-2000:]}")


def protect_arguments(source: Path, out: Path, *, jobs: int) -> list[str]:
    """Return the arguments of `salm-dicom` for the run that is measured."""
    return ["protect", str(source), "-o", str(out), "--method", "random",
            "--jobs", str(jobs), "--progress", "none"]  # fmt: skip


WORK: dict[str, Callable[[Path, Path], None]] = {
    "raw": raw_pydicom,
    "splice": splice,
    "protect": protect_in_process,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """What is measured: its name in the table, and the command that does it."""

    title: str
    command: Callable[[Path, Path], list[str]]
    prints_seconds: bool = False

    def run(self, source: Path, folder: Path) -> Run:
        """Run the command once into a fresh folder, and remove what it wrote."""
        os.sync()
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = self.command(source, Path(scratch) / "out")
            return run(command, timed=self.prints_seconds)


def this_script(name: str) -> Callable[[Path, Path], list[str]]:
    """Return the command that does one piece of `WORK` and prints the seconds it took."""
    return lambda source, out: [
        sys.executable, __file__, "--work", name, str(source), str(out)
    ]  # fmt: skip


def command_line(jobs: int) -> Callable[[Path, Path], list[str]]:
    """Return the command a user would type."""
    return lambda source, out: [
        sys.executable, "-m", "salm_dicom", *protect_arguments(source, out, jobs=jobs)
    ]  # fmt: skip


CONTESTANTS = {
    "raw": Contestant(
        title="raw pydicom, read+decode+write", command=this_script("raw"), prints_seconds=True
    ),
    "splice": Contestant(
        title="salm_dicom, read+decode+splice", command=this_script("splice"), prints_seconds=True
    ),
    "protect": Contestant(title="salm-dicom protect --jobs 1", command=command_line(1)),
    "protect_inside": Contestant(
        title="the same in a started process",
        command=this_script("protect"),
        prints_seconds=True,
    ),
    "protect_2_jobs": Contestant(title="salm-dicom protect --jobs 2", command=command_line(2)),
}


def do_work(name: str, source: Path, out: Path) -> None:
    """Print the seconds that one piece of `WORK` takes after a warm-up that imports everything."""
    from tests.synthetic import write_ct_series

    with tempfile.TemporaryDirectory() as folder:
        write_ct_series(Path(folder) / "source", slices=2)
        WORK[name](Path(folder) / "source", Path(folder) / "out")
    start = time.perf_counter()
    WORK[name](source, out)
    print(time.perf_counter() - start)


def make_export(folder: Path, slices: int) -> None:
    """Write ten series of ten patients, `slices` instances in all."""
    from tests.synthetic import write_ct_series

    for index in range(SERIES):
        patient = f"SYN{index:03d}"
        write_ct_series(
            folder / patient, slices=slices // SERIES, rows=SIDE, columns=SIDE,
            patient_id=patient, seed=index,
        )  # fmt: skip


def measure(slices: int, repeats: int, folder: Path) -> dict[str, list[Run]]:
    """Return the runs of every contestant, taken in turns there and back, and of a tenth."""
    source = folder / "source"
    # In a process of its own: a child's peak counts from the size of the parent that started it.
    subprocess.run([sys.executable, __file__, "--export", source, f"--slices={slices}"], check=True)
    compile_bytecode()
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for repeat in range(repeats):
        for name in list(CONTESTANTS)[:: -1 if repeat % 2 else 1]:
            runs[name].append(CONTESTANTS[name].run(source, folder))
            print(f"{name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr)
    tenth = source / "SYN000"
    runs["protect_tenth"] = [CONTESTANTS["protect"].run(tenth, folder) for _ in range(repeats)]
    return runs


def summary(runs: dict[str, list[Run]], slices: int) -> dict[str, float]:
    """Return medians: slices per second, peaks in MB, and the ratios that have targets."""

    def whole(name: str) -> float:
        return slices / median(r.seconds for r in runs[name])

    def inside(name: str) -> float:
        return slices / median(r.work_seconds or 0 for r in runs[name])

    def peak(name: str) -> float:
        return median(r.peak_mb for r in runs[name])

    return {
        "raw_slices_per_s": whole("raw"),
        "raw_slices_per_s_without_start": inside("raw"),
        "splice_slices_per_s": whole("splice"),
        "splice_slices_per_s_without_start": inside("splice"),
        "protect_slices_per_s": whole("protect"),
        "protect_slices_per_s_without_start": inside("protect_inside"),
        "protect_2_jobs_slices_per_s": whole("protect_2_jobs"),
        "splice_to_raw": whole("splice") / whole("raw"),
        "splice_to_raw_without_start": inside("splice") / inside("raw"),
        "protect_to_raw": whole("protect") / whole("raw"),
        "protect_to_raw_without_start": inside("protect_inside") / inside("raw"),
        "protect_2_jobs_to_raw": whole("protect_2_jobs") / whole("raw"),
        "jobs_2_to_1": whole("protect_2_jobs") / whole("protect"),
        "raw_peak_mb": peak("raw"),
        "protect_peak_mb_tenth": peak("protect_tenth"),
        "protect_peak_mb": peak("protect"),
        "peak_all_to_tenth": peak("protect") / peak("protect_tenth"),
    }


def table(numbers: dict[str, float], slices: int) -> str:
    """Return the table that is printed."""
    rows = [
        ("", "slices/s", "without start-up"),
        (CONTESTANTS["raw"].title, "raw_slices_per_s", "raw_slices_per_s_without_start"),
        (
            CONTESTANTS["splice"].title,
            "splice_slices_per_s",
            "splice_slices_per_s_without_start",
        ),
        (
            CONTESTANTS["protect"].title,
            "protect_slices_per_s",
            "protect_slices_per_s_without_start",
        ),
        (CONTESTANTS["protect_2_jobs"].title, "protect_2_jobs_slices_per_s", ""),
        ("splice / raw pydicom", "splice_to_raw", "splice_to_raw_without_start"),
        ("protect --jobs 1 / raw pydicom", "protect_to_raw", "protect_to_raw_without_start"),
        ("protect --jobs 2 / raw pydicom", "protect_2_jobs_to_raw", ""),
        ("2 jobs / 1 job", "jobs_2_to_1", ""),
        ("", "", ""),
        ("", f"{slices // SERIES} slices", f"{slices} slices"),
        ("peak memory of protect, MB", "protect_peak_mb_tenth", "protect_peak_mb"),
        (f"peak, {slices} / {slices // SERIES} slices", "", "peak_all_to_tenth"),
    ]

    def cell(text: str) -> str:
        if text not in numbers:
            return text
        return f"{numbers[text]:.2f}x" if "_to_" in text else f"{numbers[text]:.0f}"

    return "\n".join(f"{a:34}{cell(b):>12}{cell(c):>18}".rstrip() for a, b, c in rows)


def main() -> None:
    """Measure, print the table and write the numbers as JSON."""
    parser = arguments(__doc__, "pipeline")
    parser.add_argument("--slices", type=int, default=2000, help="in all; ten series (2000)")
    parser.add_argument("--export", type=Path, help="only write the synthetic export, here")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, source, out = options.work
        do_work(name, Path(source), Path(out))
        return
    if options.export:
        make_export(options.export, options.slices)
        return
    with tempfile.TemporaryDirectory(prefix="salm-bench-") as folder:
        runs = measure(options.slices, options.repeats, Path(folder))
    numbers = summary(runs, options.slices)
    print(table(numbers, options.slices))
    write_results(
        options.json, LIBRARIES, slices=options.slices, repeats=options.repeats, medians=numbers
    )


if __name__ == "__main__":
    main()
