"""The demo on bundled real data, as a newcomer runs it; and a volume-wise protection of CT."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from tests.command import run
from tests.synthetic import write_ct_series


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "salm_dicom", "demo", "-o", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_the_demo_says_what_it_did_and_a_second_one_goes_on_where_it_ended(tmp_path):
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    for text in (
        "Protected 13 series with 32 images",
        "3.82/255 = 6 HU = 6 stored",
        "PSNR",
        f"To share:        {tmp_path / 'protected'}",
        f"To keep private: {tmp_path / 'protected.vault'}",
        "13 series: every attribute, UID, background voxel and budget is right",
        "Next",
    ):
        assert text in first.stdout
    assert "Warning" not in first.stderr
    before = digests(tmp_path / "protected")
    assert len(before) == 33
    again = demo(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "(13 of them by an earlier run)" in again.stdout
    assert digests(tmp_path / "protected") == before


def test_two_classes_are_fitted_protected_as_volumes_verified_and_restored(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767322800")
    rows = ["key,label"]
    for number, lungs in enumerate((True, False, True, False)):
        patient, folder = f"P{number}", tmp_path / "export" / str(number)
        recipe = {"slices": 4, "rows": 32, "columns": 32, "seed": number, "lungs": lungs}
        write_ct_series(folder, patient_id=patient, **recipe)
        rows.append(f"{patient},{'chest' if lungs else 'abdomen'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    export, out, protector = tmp_path / "export", tmp_path / "out", tmp_path / "protector"
    labels = ["--labels", tmp_path / "labels.csv", "--labels-by", "patient", "--progress", "none"]
    settings = ["--method", "salm", "--extent", "volume", "--rounds", 1, "--steps", 2]
    fitted = run("fit", export, "-o", protector, *labels, *settings)
    assert fitted.exit_code == 0, fitted.output
    assert "4 series with labels abdomen, chest" in fitted.output
    with_protector = ["--protector", protector, "-j", 1]
    protected = run("protect", export, "-o", out, *labels, *with_protector)
    assert protected.exit_code == 0, protected.output
    assert "salm/volume" in protected.output
    digest = json.loads((protector / "protector.json").read_text())["digest"]
    assert json.loads((out / "manifest.json").read_text())["digest"] == digest
    for path in out.rglob("*.dcm"):
        (device,) = pydicom.dcmread(path).ContributingEquipmentSequence
        assert device.ContributionDateTime == "20260102030000+0000"
    assert run("verify", export, out, "--progress", "none").exit_code == 0
    assert run("restore", out, "-o", tmp_path / "back").exit_code == 0
    assert sorted(digests(tmp_path / "back").values()) == sorted(digests(export).values())
