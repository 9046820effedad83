"""Masks as labels, from an export to what is shared and back, on real data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import Result

from salm_dicom.batch.outlined import labels_on
from salm_dicom.dicom.series import files_of, read_series
from salm_dicom.foreground import foreground, near_edges
from salm_dicom.nifti.image import read
from salm_dicom.nifti.series import read_nifti, stored_pixels
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask, Protector, load
from tests.command import run
from tests.objects import write_segmentation
from tests.synthetic import write_ct_series

CREATED = "--created=2026-01-02T03:04:05+00:00"
QUICK = ["--objective=segmentation", "--rounds=1", "--steps=3"]


def protect(source: Path, output: Path, *more: object) -> Result:
    return run("protect", source, "-o", output, CREATED, "--progress=none", "-j1", *more)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture
def small_ct(shared: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Ten slices of a real CT and its mask, of which five classes are kept."""
    data = shared / "data" / "nifti_ct_seg"
    source, masks = tmp_path / "in" / "ct.nii.gz", tmp_path / "masks" / "ct_seg.nii.gz"
    image, mask = nib.load(data / "example_ct_sm.nii.gz"), nib.load(data / "example_seg.nii.gz")
    for path in (source, masks):
        path.parent.mkdir()
    nib.save(image.slicer[..., 10:20], source)
    part = mask.slicer[..., 10:20]
    values = np.asanyarray(part.dataobj)
    names, counts = np.unique(values[values > 0], return_counts=True)
    largest = names[np.argsort(counts)[-5:]]
    nib.save(nib.Nifti1Image(np.where(np.isin(values, largest), values, 0), part.affine), masks)
    return source.parent, masks.parent


def test_a_real_nifti_is_fitted_with_its_mask_protected_verified_and_restored(small_ct, tmp_path):
    source, masks = small_ct
    protector, out = tmp_path / "protector", tmp_path / "out"
    fitted = run(
        "fit", source, "-o", protector, "--masks", masks, "--modality=CT", "--progress=none",
        "--mask=gradient & roi", *QUICK,
    )  # fmt: skip
    assert fitted.exit_code == 0, fitted.output
    assert "fitted on 1 series with masks of label" in fitted.output
    assert len(load(protector).classes) == 5
    done = protect(source, out, "--protector", protector, "--masks", masks, "--modality=CT")
    assert done.exit_code == 0, done.output
    found = run("verify", source, out, "--json", "--progress=none", "--regions", masks)
    assert found.exit_code == 0, found.output
    series, *_, summary = map(json.loads, found.stdout.splitlines())
    assert (summary["wrong"], summary["unused_regions"]) == (0, 0)
    assert len([c for c in series["checks"] if c["name"] == "region_shift"]) == 5
    before = read_nifti(source / "ct.nii.gz", "CT").volumes[0]
    (path,) = out.rglob("*.nii.gz")
    after = np.asanyarray(nib.load(path).dataobj).astype(int)
    delta = after - np.asanyarray(nib.load(source / "ct.nii.gz").dataobj)
    mask = np.asanyarray(nib.load(masks / "ct_seg.nii.gz").dataobj)
    may = near_edges(mask.transpose(2, 1, 0), (3.0, 3.0), 5.0).transpose(2, 1, 0) | (mask > 0)
    assert delta.any()
    assert not delta[~may].any()
    assert np.count_nonzero(delta) <= 0.2 * foreground(before.pixels, "CT").sum() + 10
    restored = run("restore", out, "-o", tmp_path / "back", "--progress=none")
    assert restored.exit_code == 0, restored.output
    (back,) = (tmp_path / "back").rglob("*.nii.gz")
    assert nib.load(back).dataobj.get_unscaled().tobytes() == (
        nib.load(source / "ct.nii.gz").dataobj.get_unscaled().tobytes()
    )


def test_a_fit_on_the_way_gives_the_same_bytes_as_a_protector_and_as_python(small_ct, tmp_path):
    source, masks = small_ct
    settings = ["--masks", masks, "--modality=CT", *QUICK]
    assert protect(source, tmp_path / "one", *settings).exit_code == 0
    fitted = run("fit", source, "-o", tmp_path / "protector", "--progress=none", *settings)
    assert fitted.exit_code == 0, fitted.output
    by = ["--protector", tmp_path / "protector", "--masks", masks, "--modality=CT"]
    assert protect(source, tmp_path / "two", *by).exit_code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    again = protect(source, tmp_path / "two", *by)
    assert again.exit_code == 0, again.output
    assert "1 of them by an earlier run" in again.output
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    series = read_nifti(source / "ct.nii.gz", "CT")
    values = labels_on(masks / "ct_seg.nii.gz", series.volumes[0])
    mask = Mask.of({f"label {n:g}": values == n for n in np.unique(values) if n}, values.shape)
    protector = load(tmp_path / "protector")
    found = protector.apply(series.volumes[0], series_uid=series.series_uid, label=mask)
    (path,) = (tmp_path / "one").rglob("*.nii.gz")
    after = stored_pixels(read(path), 0).values.astype(int)
    np.testing.assert_array_equal(after - series.volumes[0].pixels.values, found.delta)


@pytest.mark.programs
def test_a_real_ct_with_its_seg_is_protected_and_the_judge_agrees(shared, tmp_path):
    data, out = shared / "data" / "ct_with_seg_sr", tmp_path / "out"
    source = data / "ct"
    done = protect(source, out, "--masks", data / "seg" / "liver.dcm", "--mask=roi_band", *QUICK)
    assert done.exit_code == 0, done.output
    verified = run("verify", source, out, "--json", "--progress=none")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout.splitlines()[-1])["wrong"] == 0
    series = read_series(files_of(source))
    inside = foreground(series.volume.pixels, "CT")
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in series.origin.paths]
    np.savez(tmp_path / "masks.npz", **dict(zip(uids, inside, strict=True)))
    judge = [sys.executable, shared / "checks" / "dicom_diff_check.py", source, out]
    said = subprocess.run(
        [*judge, "--masks", tmp_path / "masks.npz"], capture_output=True, text=True, check=False
    )
    assert "RESULT PASS" in said.stdout, said.stdout + said.stderr


def test_real_segments_that_overlap_and_series_without_a_mask_are_coded_entries(shared, tmp_path):
    data, source, masks = shared / "data" / "ct_with_seg_sr", tmp_path / "in", tmp_path / "masks"
    shutil.copytree(data / "ct", source / "overlapping")
    marked = write_ct_series(source / "marked", patient_id="SYN001", slices=3)
    write_ct_series(source / "bare", patient_id="SYN002", slices=2, seed=2)
    masks.mkdir()
    shutil.copy(data / "seg" / "partial_overlaps.dcm", masks)
    write_segmentation(masks / "liver.dcm", marked)
    codes = {}
    for command in (
        ["fit", "-o", tmp_path / "p"],
        ["protect", "-o", tmp_path / "o", "-j1", "--json"],
    ):
        verb, *rest = command
        done = run(verb, source, *rest, "--masks", masks, "--progress=none", *QUICK)
        assert done.exit_code == 3, done.output
        codes[verb] = done.output
    assert "E_NO_LABEL" in codes["fit"]
    assert "masks contradict each other" in codes["fit"]
    assert "marks this series" in codes["fit"]
    rows = [json.loads(line) for line in codes["protect"].splitlines() if line.startswith("{")]
    left_out = {
        Path(row["path"]).parent.name: (row["code"], row["reason"].split(":")[0])
        for row in rows if row["type"] == "left_out"
    }  # fmt: skip
    assert left_out == {
        "overlapping": ("E_NO_LABEL", "its masks contradict each other"),
        "bare": ("E_NO_LABEL", "no SEG, RTSTRUCT or NIfTI mask marks this series"),
    }
    assert rows[-1]["series"] == 1


def test_the_real_mr_and_its_manual_cord_mask_find_each_other_by_name(shared, tmp_path):
    data, source = shared / "data" / "nifti_mr_seg", tmp_path / "in"
    source.mkdir()
    for name in ("t1w", "t2"):
        shutil.copy(data / f"{name}.nii.gz", source)
        shutil.copy(data / f"{name}_seg-manual.nii.gz", source)
    out = tmp_path / "out"
    done = protect(
        source, out, "--masks", source, "--modality=MR", "--extent=volume", "--mask=gradient & roi",
        *QUICK,
    )  # fmt: skip
    assert done.exit_code == 3, done.output  # the masks stay outside, as files
    assert "Protected 2 series" in done.output
    assert "salm/volume" in done.output
    verified = run("verify", source, out, "--json", "--progress=none", "--rows=1,2")
    assert json.loads(verified.stdout.splitlines()[-1])["wrong"] == 0


def test_methods_without_a_surrogate_need_no_masks(tmp_path):
    write_ct_series(tmp_path / "in", slices=2)
    done = protect(tmp_path / "in", tmp_path / "out", "--objective=segmentation", "--method=random")
    assert done.exit_code == 0, done.output
    plan = ProtectionPlan(objective="segmentation", method="random")
    assert Protector(plan=plan).digest_for(None) == Protector(plan=plan).digest
