"""Every real file by itself: protected and passed by the judge, or left out with its code.

`tests/data/every_file.txt` says for each file what must come of it; `-s` prints the table of
docs/results.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from salm_dicom.batch.protect import Request, protect
from salm_dicom.dicom.multiframe import in_file_order
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series
from salm_dicom.foreground import foreground
from salm_dicom.plan import ProtectionPlan

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
EXPECTED = Path(__file__).parents[1] / "data" / "every_file.txt"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# What the judge says of a file although the protected one is right, and why.
WAIVED = {
    # SimpleITK takes the 14-bit JPEG 2000 stream for 32 bits, and our raw words for the 16 they are
    "693_J2KI.dcm": "SimpleITK GetPixelIDTypeAsString",
    # dciodvfy does not inflate: it reads the deflated bytes of source and output as elements
    "image_dfl.dcm": "Error - </(",
    # the judge compares two words a pixel of 4:2:2 with the three that pydicom makes of them
    "SC_ybr_full_422_uncompressed.dcm": "and pydicom give different stored values",
    # the source's own UID has this fault; it is named as the source all the same
    "color-px.dcm": "Illegal root for UID",
    # the sources lack what an instance must have; it is filled
    **dict.fromkeys(
        (
            "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm",
            "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm",
        ),
        "StudyInstanceUID added",
    ),
}  # fmt: skip
# Not files of patients.
_OTHER = {".md", ".txt", ".csv", ".json", ".gz", ".npz", ".nii", ".dump", ".icc", ".png", ".py"}


def files(root: Path) -> list[Path]:
    """Return every file that could be DICOM, in a fixed order."""
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return [
        p
        for p in found
        if p.suffix.lower() not in _OTHER and not p.name.startswith(("LICENSE", "README"))
    ]


def expected(root: str) -> dict[str, str]:
    """Return what must come of each file of `wheel` or `shared`: a code, or `protected`."""
    rows = (line.split(" ", 2) for line in EXPECTED.read_text().splitlines())
    return {name: code for place, code, name in rows if place == root}


def protected_alone(path: Path, work: Path) -> str:
    """Protect a copy of one file as an export of its own; return `protected` or its code."""
    source = work / "source"
    source.mkdir(parents=True)
    shutil.copyfile(path, source / path.name)
    request = Request(
        source=source, output=work / "out", vault=work / "vault", labels=None, created=CREATED,
        plan=ProtectionPlan(method="random"), protector=None, site_key=b"test",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = protect(request)
    assert len(result.done) + len(result.left_out) == 1, "a file is missing from the result"
    return "protected" if result.done else result.left_out[0].code


def outcomes(root: Path, work: Path) -> dict[str, str]:
    """Return what came of each file; its export, output and vault are in `work`."""
    return {
        str(path.relative_to(root)): protected_alone(path, work / f"{number:04d}")
        for number, path in enumerate(files(root))
    }


def table(found: dict[str, str]) -> str:
    counts = Counter(found.values()).most_common()
    return "\n".join(f"| `{code}` | {count} |" for code, count in counts)


def may_change(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each SOP Instance UID and where its pixels may change."""
    for found in scan(source).series:
        series = read_series(found.paths)
        volumes = series.volume.volumes()
        mask = np.concatenate([foreground(v.pixels, v.modality, v.photometric) for v in volumes])
        frames = series.origin.frames
        yield found.headers[0].sop_uid, in_file_order(mask, frames) if frames else mask[0]


def rounds(cases: Iterable[Path]) -> list[list[Path]]:
    """Return the cases in groups in which no SOP Instance or Series UID occurs twice."""
    out: list[tuple[set[str], list[Path]]] = []
    for case in cases:
        header = pydicom.dcmread(next((case / "source").iterdir()), stop_before_pixels=True)
        if not header.get("SOPInstanceUID"):
            continue  # the judge takes them for one instance; test_judge gives them UIDs first
        keys = ("SOPInstanceUID", "SeriesInstanceUID")
        uids = {str(header.get(key, "")) for key in keys}  # sources without one are apart, too
        place = next((one for one in out if not one[0] & uids), None)
        if place is None:
            place = (set(), [])
            out.append(place)
        place[0].update(uids)
        place[1].append(case)
    return [members for _, members in out]


def judged(judge: Path, cases: list[Path], work: Path) -> list[str]:
    """Return what the judge finds wrong with several exports at once."""
    masks: dict[str, np.ndarray] = {}
    for case in cases:
        shutil.copytree(case / "source", work / "source" / case.name)
        shutil.copytree(case / "out", work / "out" / case.name)
        masks |= dict(may_change(case / "source"))
    np.savez(work / "masks.npz", **masks)
    command = [
        sys.executable, judge, work / "source", work / "out", "--masks", work / "masks.npz",
        "--json", work / "report.json",
        "--limit", "100000",  # no comparison within a study: the files have nothing to do with it
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (work / "report.json").exists(), done.stdout + done.stderr
    report = json.loads((work / "report.json").read_text())
    return [
        f"{name}: {what}"
        for _, where, what in report["fail"]
        for name in [source_name(work, Path(where))]
        if WAIVED.get(name, "\0") not in what
    ]


def source_name(work: Path, where: Path) -> str:
    """Return the name of the source that a line of the judge's is about."""
    case = where.relative_to(work / "out").parts[0]
    return next((work / "source" / case).iterdir()).name


def compare(root: Path, place: str, work: Path) -> dict[str, str]:
    found, wanted = outcomes(root, work), expected(place)
    wrong = {n: (found.get(n), wanted.get(n)) for n in found if found[n] != wanted.get(n)}
    assert not wrong
    assert wanted.keys() <= found.keys()
    print(f"\n{place}\n{table(found)}")
    return found


def test_every_file_of_pydicom_is_protected_or_left_out_with_its_code(tmp_path):
    found = compare(WHEEL, "wheel", tmp_path)
    assert found["examples_ybr_color.dcm"] == "protected"


@pytest.mark.slow
@pytest.mark.programs
@pytest.mark.parametrize("place", ["wheel", "shared"])
def test_the_judge_passes_every_file_that_is_protected(shared, tmp_path, place):
    root = WHEEL if place == "wheel" else shared / "data"
    found = compare(root, place, tmp_path / "cases")
    cases = [
        tmp_path / "cases" / f"{number:04d}"
        for number, code in enumerate(found.values())
        if code == "protected"
    ]
    for number, members in enumerate(rounds(cases)):
        judge = shared / "checks" / "dicom_diff_check.py"
        assert judged(judge, members, tmp_path / f"round-{number}") == []
