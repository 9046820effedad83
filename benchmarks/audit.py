"""What `salm-dicom audit` says of a strong protection, of ours, and of none.

Run: .venv/bin/python benchmarks/audit.py [--data NAME ...] [--methods NAME ...] [--full]
SALM_SHARED names the folder whose data/ is read (else ../shared). Pictures are written as DICOM;
`modalities` are the CT and MR series of that folder as they are. Everything else are the commands
a user would type. An audit must find the planted protection, far above any budget, and none in
the random control. `salm_fresh` is SALM with fresh networks and a spared label. Each audit is
written as soon as it is there, and found there by a later run (--again makes it anew).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pydicom

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.radiographs

from benchmarks.measured import shared_file, write_results  # noqa: E402
from tests.radiographs import write_radiographs  # noqa: E402

# Exit of a command that left something out: real series do not all suit every method.
PARTIAL = 3
LIBRARIES = ("salm_dicom", "torch", "monai", "numpy", "pydicom")
METHODS: dict[str, tuple[str, ...]] = {
    # class-wise squares of +-100 of 255 stored units: nobody would share that, victims learn it
    "planted": ("--method=patches", "--epsilon=100/255"),
    "random": ("--method=random", "--epsilon=8/255"),
    "salm": ("--method=salm", "--epsilon=8/255"),
    "salm_fresh": ("--method=salm", "--epsilon=8/255", "--surrogates=fresh", "--spare-one"),
    "one_sided": ("--method=one_sided", "--epsilon=8/255"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Parameters
    ----------
    patients, each
        Of all labels together, and pictures of a patient.
    audit
        Options of `salm-dicom audit`.
    by_data
        Whether the data say how long victims are trained; else the audit does.
    """

    patients: int
    each: int
    audit: tuple[str, ...]
    by_data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is protected and audited.

    Parameters
    ----------
    about
        Options of both commands.
    side
        Rows and columns of what networks see.
    what
        For people.
    """

    folder: Path
    about: tuple[str | Path, ...]
    side: int
    what: str


class Data(Protocol):
    """A set of images with labels."""

    @property
    def epochs(self) -> int:
        """That a victim of the small size is trained; clean ones know their images by then."""

    def write(self, folder: Path, size: Size) -> Export:
        """Write the export and its labels into a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A set of small pictures.

    Parameters
    ----------
    file
        Below data/ of the shared folder.
    labels
        Names, in the order of the numbers in the file.
    side
        Rows and columns of what networks see.
    """

    file: str
    labels: tuple[str, ...]
    epochs: int
    side: int

    def read(self) -> dict[str, np.ndarray]:
        """Return the pictures of each label, (n, rows, columns), uint8."""
        raw = np.load(shared_file(self.file))
        of_label = raw["train_labels"][:, 0]
        return {name: raw["train_images"][of_label == n] for n, name in enumerate(self.labels)}

    def write(self, folder: Path, size: Size) -> Export:
        """Write radiographs of invented patients."""
        pictures = self.read()
        edge, patients = next(iter(pictures.values())).shape[1], size.patients // len(pictures)
        what = f"{patients} patients of each label, {size.each} images of {edge} x {edge} each"
        if edge != self.side:
            what += f", seen at {self.side} x {self.side}"
        labels = write_radiographs(folder / "export", pictures, patients, size.each)
        return Export(
            folder=folder / "export",
            about=("--labels", labels, "--labels-by=patient", "--intensity-range", "0", "255"),
            side=self.side,
            what=what,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Modalities:
    """The CT and MR series of the shared folder, of images that are not tiny."""

    epochs: int = 12
    side: int = 64

    def write(self, folder: Path, size: Size) -> Export:
        """Copy the files; what is in a series is its label."""
        (folder / "export").mkdir()
        modality_of: dict[str, str] = {}
        patients: dict[str, set[str]] = {}
        with shared_file("FILES.csv").open(newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                is_image = row["modality"] in ("CT", "MR") and int(row["rows"] or 0) >= self.side
                if row["kind"] == "dicom" and is_image:
                    file = folder / "export" / f"{number:04d}.dcm"
                    shutil.copy(shared_file(row["file"]), file)
                    head = pydicom.dcmread(file, stop_before_pixels=True, force=True)
                    modality_of[str(head.get("SeriesInstanceUID", ""))] = row["modality"]
                    whose = patients.setdefault(row["modality"], set())
                    whose.add(str(head.get("PatientID", "")))
        lines = [f"{uid},{modality}" for uid, modality in modality_of.items() if uid]
        labels = folder / "labels.csv"
        labels.write_text("\n".join(["key,label", *lines]))
        counts = ", ".join(f"{len(whose)} patients with {one}" for one, whose in patients.items())
        return Export(
            folder=folder / "export",
            about=("--labels", labels, "--labels-by=series"),
            side=self.side,
            what=f"{counts}, as far as files say",
        )


DATA: dict[str, Data] = {
    "pneumonia": Pictures(
        file="pneumoniamnist/pneumoniamnist.npz",
        labels=("normal", "pneumonia"),
        epochs=20,
        side=28,
    ),
    "mednist": Pictures(
        file="mednist_subset/mednist_subset.npz",
        labels=("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"),
        epochs=8,
        side=32,
    ),
    "modalities": Modalities(),
}


SMALL = Size(
    patients=120,
    each=4,
    audit=(
        "--victims=convnet,densenet-small", "--seeds=2", "--coverage=50,100",
        "--countermeasures=jpeg10,blur1",
    ),
    by_data=True,
)  # fmt: skip
FULL = Size(
    patients=240, each=7,
    audit=(
        "--victims=resnet-18,densenet-121,efficientnet-b0", "--countermeasures=all",
        "--device=auto",
    ),
)  # fmt: skip


def salm_dicom(*arguments: str | Path) -> None:
    """Run a command, whose messages are shown; end with them if it fails."""
    command = [sys.executable, "-m", "salm_dicom", *map(str, arguments), "--progress=none"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode not in (0, PARTIAL):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")


def audited(
    folder: Path, name: str, export: Export, options: Sequence[str], jobs: int
) -> dict[str, Any]:
    """Return the document of the audit of an export protected by one method.

    Parameters
    ----------
    folder
        For everything that is written.
    options
        Of `salm-dicom audit`.
    """
    out, document, side = folder / name, folder / f"{name}.json", str(export.side)
    workers = ("--jobs", str(jobs))
    size = ("--slice-size", side, side)
    salm_dicom("protect", export.folder, "-o", out, *export.about, *METHODS[name], *size, *workers)
    # nothing but the images is believed
    out.with_name(f"{name}.vault").rename(folder / f"{name}.taken-away")
    (out / "manifest.json").write_text("{}")
    salm_dicom(
        "audit", export.folder, out, *export.about, *options, "--size", side, *workers,
        "--json", document,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(document.read_text())
    return found


def table(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the protection by countermeasure and coverage, percent with its interval."""
    heads = ["victims may use", *documents]
    lines = [heads, ["---"] * len(heads)]
    rows = [[*d["countermeasures"], *d["coverage"][1:]] for d in documents.values()]
    for same in zip(*rows, strict=True):
        lines.append([_name(same[0]), *(_share(row) for row in same)])
    for title, field in (("clean victims reach", "clean"), ("on protected images", "protected")):
        lines.append([title, *(f"{100 * row[0][field]['value']:.0f} %" for row in rows)])
    for title, field in (("AUC, clean", "clean_auc"), ("AUC, protected", "protected_auc")):
        lines.append([title, *(f"{row[0][field]:.2f}" for row in rows)])
    lines.append(["verdict", *(row[0]["verdict"].split(":")[0] for row in rows)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _name(row: Mapping[str, Any]) -> str:
    known = {"none": "nothing", "clean_choice": "nothing, epoch chosen on clean images"}
    measure = known.get(row["countermeasure"], row["countermeasure"])
    return measure if row["coverage"] == 100 else f"{100 - row['coverage']} % of patients clean"


def _share(row: Mapping[str, Any]) -> str:
    found = row["protection"]
    if found is None:
        return "nothing to lose"
    low, value, high = (f"{100 * found[name]:.0f}" for name in ("low", "value", "high"))
    return f"{value} % ({low} to {high})"


def measure(
    name: str, methods: Sequence[str], size: Size, jobs: int, path: Path, again: bool
) -> None:
    """Print the table of one set of images, and add its audits to the results."""
    options = (*size.audit, *([f"--epochs={DATA[name].epochs}"] if size.by_data else []))
    documents: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        export = DATA[name].write(folder, size)
        asked = {"export": export.what, "options": list(options)}
        for method in methods:
            audits = json.loads(path.read_text())["audits"] if path.exists() else {}
            kept = audits.setdefault(name, {})
            if again or kept.get(method, {}).get("asked") != asked:
                found = audited(folder, method, export, options, jobs)
                kept[method] = {"asked": asked} | found | {"trials": len(found["trials"])}
                write_results(path, LIBRARIES, audits=audits)
                print(f"{name}: {method} done", file=sys.stderr, flush=True)
            documents[method] = kept[method]
    print(f"\n{name}: {export.what}\n")
    print(table(documents), flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--full", action="store_true", help="for a large machine")
    parser.add_argument("--again", action="store_true", help="also what the results have")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "audit.json")
    chosen = parser.parse_args()
    for name in chosen.data:
        size = FULL if chosen.full else SMALL
        measure(name, chosen.methods, size, chosen.jobs, chosen.json, chosen.again)


if __name__ == "__main__":
    main()
