"""What grows with an export: memory and time of the driver, and the CPU of a scan.

Run: .venv/bin/python benchmarks/scale.py [--series 1000 10000 100000] [--files 1] [--repeats 3]
An export of 100,000 files takes 400 MB in the folder for temporary files (TMPDIR).

`driver` is `protect` with jobs that do nothing: what is measured is scan, index, names, UIDs, the
queue, the ledger and the manifest, without what workers do. `scan` and `pydicom` read the headers
of the same files: our scan with its index, and `dcmread(stop_before_pixels=True)`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import arguments, write_results  # noqa: E402

LIBRARIES = ("salm_dicom", "pydicom", "numpy")
FOLDER_OF = 100
SIDE = 16

Numbers = dict[str, float]


def make_export(folder: Path, series: int, files: int) -> None:
    """Write series of `files` slices of 16 x 16 under a full CT header, three to a patient."""
    data, marks = template()
    for number in range(series):
        place = folder / f"{number // FOLDER_OF:05d}" / f"{number:07d}"
        place.mkdir(parents=True)
        one = data.replace(marks["patient"], b"P%07d" % (number // 3))
        one = one.replace(marks["study"], b"2.25.%034d" % (10**33 + number // 2))
        one = one.replace(marks["series"], b"2.25.%034d" % (2 * 10**33 + number))
        for index in range(files):
            uid = b"2.25.%034d" % (3 * 10**33 + number * files + index)
            at = b"%08.2f" % (2 * index)
            (place / f"{index:05d}.dcm").write_bytes(
                one.replace(marks["sop"], uid).replace(marks["position"], at)
            )


def template() -> tuple[bytes, dict[str, bytes]]:
    """Return a file, and the values in it that make it another one when they are replaced."""
    import pydicom

    from tests.synthetic import write_ct_series

    with tempfile.TemporaryDirectory() as folder:
        path = write_ct_series(Path(folder), slices=1, rows=SIDE, columns=SIDE)[0]
        dataset = pydicom.dcmread(path)
    marks = {
        "patient": b"P0000000",
        "study": b"2.25.1" + b"7" * 33,
        "series": b"2.25.2" + b"7" * 33,
        "sop": b"2.25.3" + b"7" * 33,
        "position": b"-4567.25",
    }
    dataset.PatientID = marks["patient"].decode()
    dataset.StudyInstanceUID = marks["study"].decode()
    dataset.SeriesInstanceUID = marks["series"].decode()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = marks["sop"].decode()
    dataset.ImagePositionPatient[2] = marks["position"].decode()
    out = BytesIO()
    dataset.save_as(out)
    return out.getvalue(), marks


def scan_with_pydicom(source: Path) -> None:
    """Read every header with pydicom alone."""
    import pydicom

    for folder, _, names in os.walk(source):
        for name in names:
            pydicom.dcmread(Path(folder) / name, stop_before_pixels=True)


def scan_with_ours(source: Path) -> None:
    """Scan, group and index every file as `salm-dicom protect` does."""
    from salm_dicom.batch.catalog import Catalog
    from salm_dicom.batch.source import fill

    with tempfile.TemporaryDirectory() as folder, Catalog.new(Path(folder) / "catalog") as catalog:
        fill(catalog, source)


def drive(source: Path) -> None:
    """Protect with jobs that do nothing, in this process."""
    from salm_dicom.batch import protect as batch
    from salm_dicom.batch.job import Job, Outcome
    from salm_dicom.plan import ProtectionPlan
    from salm_dicom.record import ProtectionRecord

    record = ProtectionRecord(
        method="random", extent="slice", epsilon=4 / 255, budget_modality=6.0, budget_stored=6,
        units="HU", intensity_range=(-160.0, 240.0), rho=0.2, foreground_share=0.5,
        changed_share=0.2, largest_change_stored=6, largest_change_modality=6.0, digest="0" * 64,
    ).to_json()  # fmt: skip

    def nothing(job: Job) -> Outcome:
        return Outcome(source=job.source, name=job.name, record=record)

    batch.protect_series = nothing
    with tempfile.TemporaryDirectory() as folder:
        result = batch.protect(
            batch.Request(
                source=source, output=Path(folder) / "out", vault=Path(folder) / "vault",
                plan=ProtectionPlan(method="random"), protector=None, labels=None,
                created=datetime.now(UTC), site_key=b"k" * 16,
            )
        )  # fmt: skip
        print(f"{len(result.done)} series", file=sys.stderr)


WORK: dict[str, Callable[[Path], None]] = {
    "pydicom": scan_with_pydicom,
    "scan": scan_with_ours,
    "driver": drive,
}


def do_work(name: str, source: Path) -> None:
    """Do one piece of `WORK` after a warm-up that imports everything; print what it took."""
    with tempfile.TemporaryDirectory() as folder:
        make_export(Path(folder) / "warm", 2, 1)
        WORK[name](Path(folder) / "warm")
    before, cpu, start = peak_mb(), time.process_time(), time.perf_counter()
    WORK[name](source)
    numbers = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "grown_mb": peak_mb() - before,
        "peak_mb": peak_mb(),
    }
    print(json.dumps(numbers))


def peak_mb() -> float:
    """Return the largest size this process has had."""
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def run(name: str, source: Path) -> Numbers:
    """Do one piece of `WORK` in a process of its own."""
    command = [sys.executable, __file__, "--work", name, str(source)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
    numbers: Numbers = json.loads(found.stdout)
    print(f"{source.name} {name}: {numbers}", file=sys.stderr)
    return numbers


def measure(series: int, files: int, repeats: int, folder: Path) -> dict[str, Numbers]:
    """Return the medians of every piece of `WORK` on an export of that many series."""
    source = folder / f"{series}"
    command = [sys.executable, __file__, "--export", str(source), "--series", str(series)]
    subprocess.run([*command, "--files", str(files)], check=True)  # a parent's peak is inherited
    runs: dict[str, list[Numbers]] = {name: [] for name in WORK}
    for repeat in range(repeats):
        for name in list(WORK)[:: -1 if repeat % 2 else 1]:
            runs[name].append(run(name, source))
    return {
        name: {key: median(one[key] for one in found) for key in found[0]}
        for name, found in runs.items()
    }


def table(numbers: dict[int, dict[str, Numbers]], files: int) -> str:
    """Return the medians as Markdown tables."""
    rows = [
        "| series | files | driver, peak MB | grown by MB | seconds a 1,000 series | "
        "scan, CPU ms a file | pydicom | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for series, found in numbers.items():
        driver, scan, plain = found["driver"], found["scan"]["cpu"], found["pydicom"]["cpu"]
        each = 1000 / (series * files)
        rows.append(
            f"| {series:,} | {series * files:,} | {driver['peak_mb']:.0f} | "
            f"{driver['grown_mb']:.0f} | {driver['seconds'] * 1000 / series:.2f} | "
            f"{scan * each:.3f} | {plain * each:.3f} | {scan / plain:.2f}x |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = arguments(__doc__, "scale")
    parser.add_argument("--series", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--files", type=int, default=1, help="of each series (1)")
    parser.add_argument("--export", type=Path, help="only write the synthetic export, here")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        do_work(options.work[0], Path(options.work[1]))
        return
    if options.export:
        make_export(options.export, options.series[0], options.files)
        return
    numbers = {}
    for series in options.series:
        with tempfile.TemporaryDirectory(prefix="salm-scale-") as folder:
            numbers[series] = measure(series, options.files, options.repeats, Path(folder))
    print(table(numbers, options.files))
    write_results(
        options.json, LIBRARIES,
        files_of_a_series=options.files, repeats=options.repeats, medians=numbers,
    )  # fmt: skip


if __name__ == "__main__":
    main()
