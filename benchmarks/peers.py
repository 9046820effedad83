"""What others take for their work on the same files: `protect` beside programs that do less.

Run: .venv/bin/python benchmarks/peers.py [--slices 400] [--repeats 3]

None of them does the same job. pydicom and SimpleITK read, decode and write; dicom-anonymizer
changes headers only; `cp -r` only copies. One process each, whole commands with their start.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.*, tests.synthetic

from benchmarks.measured import arguments, compile_bytecode, run, write_results  # noqa: E402
from benchmarks.pipeline import command_line, make_export, raw_pydicom  # noqa: E402

LIBRARIES = ("salm_dicom", "pydicom", "simpleitk", "dicom-anonymizer")


def simpleitk(source: Path, out: Path) -> None:
    """Read each series as a volume and write its slices with what metadata it can."""
    import SimpleITK as sitk

    for place in sorted(source.iterdir()):
        names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(place))
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(names)
        reader.MetaDataDictionaryArrayUpdateOn()
        volume = reader.Execute()
        target = out / place.name
        target.mkdir(parents=True)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index, name in enumerate(names):
            one = volume[:, :, index]
            for key in reader.GetMetaDataKeys(index):
                with suppress(TypeError):  # it reads text that it does not write
                    one.SetMetaData(key, reader.GetMetaData(index, key))
            writer.SetFileName(str(target / Path(name).name))
            writer.Execute(one)


def anonymizer(source: Path, out: Path) -> None:
    """De-identify every header by the basic profile."""
    from dicomanonymizer import anonymize_dicom_file

    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        target = out / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        anonymize_dicom_file(str(path), str(target))


WORK: dict[str, Callable[[Path, Path], None]] = {
    "pydicom": raw_pydicom,
    "simpleitk": simpleitk,
    "anonymizer": anonymizer,
}
Command = Callable[[Path, Path], list[str]]


def this_script(name: str) -> Command:
    """Return the command that does one piece of `WORK`."""
    return lambda source, out: [sys.executable, __file__, "--work", name, str(source), str(out)]


CONTESTANTS: dict[str, Command] = {
    "`cp -r`": lambda source, out: ["cp", "-r", str(source), str(out)],
    "`salm-dicom protect`, two workers": command_line(2),
    "`salm-dicom protect --jobs 1`": command_line(1),
    "pydicom: read, decode, write": this_script("pydicom"),
    "SimpleITK: series read and write": this_script("simpleitk"),
    "dicom-anonymizer: headers": this_script("anonymizer"),
}


def measure(slices: int, repeats: int, folder: Path) -> dict[str, float]:
    """Return median seconds of each, taken in turns there and back."""
    source = folder / "source"
    make_export(source, slices)
    compile_bytecode()
    runs: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for repeat in range(repeats):
        for name in list(CONTESTANTS)[:: -1 if repeat % 2 else 1]:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                found = run(CONTESTANTS[name](source, Path(scratch) / "out"))
            runs[name].append(found.seconds)
            print(f"{name}: {found.seconds:.1f} s", file=sys.stderr)
    return {name: median(found) for name, found in runs.items()}


def main() -> None:
    """Measure, print a table and write the numbers as JSON."""
    parser = arguments(__doc__, "peers")
    parser.add_argument("--slices", type=int, default=400, help="in all; ten series (400)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        name, source, out = options.work
        WORK[name](Path(source), Path(out))
        return
    with tempfile.TemporaryDirectory(prefix="salm-peers-") as folder:
        found = measure(options.slices, options.repeats, Path(folder))
    ours = found["`salm-dicom protect --jobs 1`"]
    print("| one run over the same files | slices/s | against `protect --jobs 1` |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {options.slices / seconds:.0f} | {ours / seconds:.2f}x |")
    write_results(
        options.json, LIBRARIES,
        slices=options.slices, repeats=options.repeats, median_seconds=found,
    )  # fmt: skip


if __name__ == "__main__":
    main()
