"""What `salm-dicom audit` says of radiographs with a strong protection, with ours, and with none.

Run: .venv/bin/python benchmarks/audit.py [--data pneumonia mednist] [--methods NAME ...] [--full]
SALM_SHARED names the folder whose data/ has pneumoniamnist/ and mednist_subset/ (else ../shared).
Pictures are written as DICOM; everything else are the commands a user would type. An audit must
find the planted protection, far above any budget, and none in the random control. How long it
takes has not been measured; each audit is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.radiographs

from benchmarks.measured import write_results  # noqa: E402
from tests.radiographs import write_radiographs  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy", "pydicom")
METHODS: dict[str, tuple[str, ...]] = {
    # class-wise squares of +-100 of 255 stored units: nobody would share that, victims learn it
    "planted": ("--method=patches", "--epsilon=100/255"),
    "random": ("--method=random", "--epsilon=8/255"),
    "salm": ("--method=salm", "--epsilon=8/255"),
    "one_sided": ("--method=one_sided", "--epsilon=8/255"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """A set of small pictures.

    Parameters
    ----------
    file
        Below data/ of the shared folder.
    labels
        Names, in the order of the numbers in the file.
    """

    file: str
    labels: tuple[str, ...]

    def read(self) -> dict[str, np.ndarray]:
        """Return the pictures of each label, (n, rows, columns), uint8."""
        path = Path(os.environ.get("SALM_SHARED", ROOT.parent / "shared")) / "data" / self.file
        if not path.exists():
            raise SystemExit(f"{path.name} was not found; SALM_SHARED=FOLDER names its place")
        raw = np.load(path)
        of_label = raw["train_labels"][:, 0]
        return {name: raw["train_images"][of_label == n] for n, name in enumerate(self.labels)}


DATA = {
    "pneumonia": Pictures(file="pneumoniamnist/pneumoniamnist.npz", labels=("normal", "pneumonia")),
    "mednist": Pictures(
        file="mednist_subset/mednist_subset.npz",
        labels=("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"),
    ),
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
    """

    patients: int
    each: int
    audit: tuple[str, ...]


SMALL = Size(
    patients=120,
    each=4,
    audit=(
        "--victims=convnet,densenet-small", "--seeds=2", "--coverage=50,100",
        "--countermeasures=shift_flip,jpeg10,blur1",
    ),
)  # fmt: skip
FULL = Size(
    patients=240, each=7,
    audit=("--victims=resnet-18,densenet-121,efficientnet-b0", "--countermeasures=all"),
)  # fmt: skip


def salm_dicom(*arguments: str | Path) -> None:
    """Run a command, whose messages are shown; end with them if it fails."""
    command = [sys.executable, "-m", "salm_dicom", *map(str, arguments), "--progress=none"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")


def audited(
    folder: Path, export: Path, labels: Path, name: str, side: int, size: Size, jobs: int
) -> dict[str, Any]:
    """Return the document of the audit of an export protected by one method."""
    out, document = folder / name, folder / f"{name}.json"
    about = ("--labels", labels, "--labels-by=patient", "--intensity-range", "0", "255")
    surrogate = ("--slice-size", str(side), str(side))
    salm_dicom(
        "protect", export, "-o", out, *about, *METHODS[name], *surrogate, "--jobs", str(jobs)
    )
    # nothing but the images is believed
    out.with_name(f"{name}.vault").rename(folder / f"{name}.taken-away")
    (out / "manifest.json").write_text("{}")
    salm_dicom(
        "audit", export, out, *about, *size.audit, "--size", str(side), "--jobs", str(jobs),
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
    lines.append(["verdict", *(row[0]["verdict"].split(":")[0] for row in rows)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _name(row: Mapping[str, Any]) -> str:
    measure = "nothing" if row["countermeasure"] == "none" else row["countermeasure"]
    return measure if row["coverage"] == 100 else f"{100 - row['coverage']} % of patients clean"


def _share(row: Mapping[str, Any]) -> str:
    found = row["protection"]
    if found is None:
        return "nothing to lose"
    low, value, high = (f"{100 * found[name]:.0f}" for name in ("low", "value", "high"))
    return f"{value} % ({low} to {high})"


def measure(name: str, methods: Sequence[str], size: Size, jobs: int, path: Path) -> None:
    """Print the table of one set of pictures, and add its audits to the results."""
    pictures = DATA[name].read()
    side = next(iter(pictures.values())).shape[1]
    with tempfile.TemporaryDirectory() as place:
        folder, documents = Path(place), {}
        patients = size.patients // len(pictures)
        labels = write_radiographs(folder / "export", pictures, patients, size.each)
        for method in methods:
            documents[method] = audited(folder, folder / "export", labels, method, side, size, jobs)
            earlier = json.loads(path.read_text()).get("audits", {}) if path.exists() else {}
            write_results(path, LIBRARIES, audits=earlier | {name: _kept(documents)})
            print(f"{name}: {method} done", file=sys.stderr, flush=True)
    print(f"\n{name}, {patients} patients of each label, {side} x {side} pixels:\n")
    print(table(documents), flush=True)


def _kept(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what is worth keeping of audits: everything but single trials."""
    return {
        name: {key: value for key, value in one.items() if key != "trials"}
        | {"trials": len(one["trials"])}
        for name, one in documents.items()
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--full", action="store_true", help="for a large machine")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "audit.json")
    chosen = parser.parse_args()
    for name in chosen.data:
        measure(name, chosen.methods, FULL if chosen.full else SMALL, chosen.jobs, chosen.json)


if __name__ == "__main__":
    main()
