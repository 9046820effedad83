"""The independent judge of shared/checks on protected real data; its PASS is required."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import generate_uid

from salm_dicom.cli.main import main
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series
from salm_dicom.foreground import foreground

pytestmark = pytest.mark.programs

SETS = [
    "ct_ny_sbu",
    "ct_siemens_j2k_series",
    "ct_ge_tilt",
    "mr_siemens_mprage",
    "tiny_series/torchio_17",
    "tiny_series/monai_ct_4",
]


def masks(source: Path, target: Path) -> Path:
    """Write where each source instance may change, for the judge."""
    found = {}
    for files in scan(source).series:
        volume = read_series(files.paths).volume
        mask = foreground(volume.pixels, volume.modality, volume.photometric)
        found |= {h.sop_uid: one for h, one in zip(files.headers, mask, strict=True)}
    np.savez(target, **found)
    return target


def with_uids(source: Path, target: Path) -> Path:
    """Copy a series whose anonymiser emptied its UIDs, with UIDs.

    The judge refuses the files as they are: all have the same, empty, SOP Instance UID.
    """
    target.mkdir()
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series"])
        dataset.save_as(target / f"{path.name}.dcm")
    return target


def judged(shared: Path, source: Path, output: Path, work: Path) -> str:
    judge = [sys.executable, shared / "checks" / "dicom_diff_check.py", source, output]
    limits = ["--masks", masks(source, work / "masks.npz")]
    done = subprocess.run([*judge, *limits], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


# Sets of files that do not belong together: the judge is right that some have no partner (they are
# left out, see test_every_file) or occur twice in the source. These lines count nevertheless.
MIXED = ["mr_enhanced", "us_8bit", "pt_dx_small", "jpeg_codecs", "pydicom_variety"]
ABOUT_THE_OUTPUT = {"DEC", "VFY", "ENT", "PIX", "PROV"}
# The source's own UID has a wrong root.
KNOWN = ("Illegal root for UID = <999.999.",)


def is_unread(code: str, path: str) -> bool:
    """Return whether dciodvfy takes a deflated data set for elements: it says what it finds there.

    That are the first bytes of the stream, which differ from one minute to the next.
    """
    if code != "VFY":
        return False
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    return bool(syntax.is_deflated)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXED)
def test_no_line_of_dciodvfy_dcentvfy_or_a_decoder_is_new_in_a_whole_set(shared, tmp_path, name):
    source, out, report = shared / "data" / name, tmp_path / "out", tmp_path / "report.json"
    arguments = ["protect", source, "-o", out, "--method", "random", "--progress", "none", "-j1"]
    assert CliRunner().invoke(main, [str(a) for a in arguments]).exit_code in (0, 3)
    judge = [sys.executable, shared / "checks" / "dicom_diff_check.py", source, out]
    subprocess.run([*judge, "--json", report], capture_output=True, check=False)
    found = json.loads(report.read_text())
    about = [row for row in found["fail"] if row[0] in ABOUT_THE_OUTPUT]
    new = [line for code, path, *_, line in about if not is_unread(code, path)]
    assert [line for line in new if not any(known in line for known in KNOWN)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_the_judge_passes_the_random_control(shared, tmp_path, name):
    source = shared / "data" / name
    if name == "ct_siemens_j2k_series":
        source = with_uids(source / "dicom", tmp_path / "source")
    out = tmp_path / "out"
    arguments = ["protect", source, "-o", out, "--method", "random", "--progress", "none"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code in (0, 3), result.output
    report = judged(shared, source, out, tmp_path)
    assert "RESULT PASS" in report, report


@pytest.mark.slow
@pytest.mark.parametrize("method", ["one_sided", "salm"])
def test_the_judge_passes_methods_with_labels_on_the_labelled_set(shared, tmp_path, method):
    source, out = shared / "data" / "ct_ny_sbu", tmp_path / "out"
    rows = [
        f"{path.relative_to(source)},{path.parent.name}" for path in sorted(source.rglob("*.dcm"))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["key,label", *rows]))
    arguments = [
        "protect", source, "-o", out, "--labels", tmp_path / "labels.csv", "--labels-by", "path",
        "--method", method, "--rounds", 2, "--steps", 5, "--progress", "none",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code in (0, 3), result.output
    report = judged(shared, source, out, tmp_path)
    assert "RESULT PASS" in report, report


def test_a_series_with_emptied_uids_is_protected_and_gets_what_it_lacks(shared, tmp_path):
    source, out = shared / "data" / "ct_siemens_j2k_series" / "dicom", tmp_path / "out"
    run = CliRunner()
    arguments = ["protect", source, "-o", out, "--method=random", "--progress=none"]
    assert run.invoke(main, [str(a) for a in arguments]).exit_code == 0
    files = [pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))]
    assert len({f.SOPInstanceUID for f in files}) == 20
    assert {str(f.SOPClassUID) for f in files} == {"1.2.840.10008.5.1.4.1.1.2"}
    assert len({f.StudyInstanceUID for f in files}) == 1
    assert run.invoke(main, ["verify", str(source), str(out), "--progress=none"]).exit_code == 0
