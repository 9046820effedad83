"""A scan as NIfTI gets the change that it gets as DICOM, in whatever order its voxels are kept."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import Series, files_of, read_series
from salm_dicom.grid import align
from salm_dicom.nifti.series import read_nifti
from tests.nifti_files import add_field, write_nifti_file
from tests.synthetic import write_ct_series
from tests.unit.volumes import untrained_protector

# Which of (i, j, k) a converter turns round: none, rows as dcm2niix does, all.
KEPT_AS = {"as it is": (), "rows turned round": (1,), "all turned round": (0, 1, 2)}


def convert(series: Series, path: Path, turned: tuple[int, ...]) -> Path:
    """Write a series as NIfTI with the stored values, mapping and UID it has as DICOM."""
    pixels, affine = series.volume.pixels, series.volume.affine.copy()
    values = pixels.values.transpose(2, 1, 0)
    for axis in turned:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
        values = np.flip(values, axis)
    write_nifti_file(
        path, values, affine=affine, modality=series.volume.modality,
        scaling=(float(pixels.slope[0]), float(pixels.intercept[0])),
    )  # fmt: skip
    add_field(path, SeriesInstanceUID=series.series_uid)
    return path


def assert_same_change(series: Series, path: Path, method: str) -> None:
    as_nifti = read_nifti(path)
    protector = untrained_protector(method=method, steps=2)
    label = "chest" if protector.plan.needs_surrogate else None
    expected = protector.apply(series.volume, series_uid=series.series_uid, label=label)
    found = protector.apply(as_nifti.volumes[0], series_uid=as_nifti.series_uid, label=label)
    home = align(
        found.delta.astype(np.float32).transpose(2, 1, 0),
        as_nifti.volumes[0].affine,
        expected.delta.shape[::-1],
        series.volume.affine,
    ).transpose(2, 1, 0)
    assert np.count_nonzero(expected.delta)
    assert np.array_equal(home, expected.delta)
    assert found.record == expected.record


@pytest.mark.parametrize("method", ["random", "salm"])
@pytest.mark.parametrize("kept_as", KEPT_AS)
def test_a_series_gets_one_change_as_dicom_and_as_nifti(tmp_path, kept_as, method):
    write_ct_series(tmp_path / "series", slices=3, rows=48, columns=64)
    series = read_series(files_of(tmp_path / "series"))
    path = convert(series, tmp_path / "scan.nii.gz", KEPT_AS[kept_as])
    assert_same_change(series, path, method)
    assert nib.load(path).shape == (64, 48, 3)


def test_without_the_uid_only_the_seed_differs(tmp_path):
    write_ct_series(tmp_path / "series", slices=3, rows=48, columns=64)
    series = read_series(files_of(tmp_path / "series"))
    path = convert(series, tmp_path / "scan.nii", ())
    add_field(path, SeriesInstanceUID=None)
    as_nifti = read_nifti(path)
    protector = untrained_protector(method="salm", steps=2)
    both = [
        protector.apply(volume, series_uid=uid, label="chest").delta
        for volume, uid in (
            (series.volume, series.series_uid),
            (as_nifti.volumes[0], as_nifti.series_uid),
        )
    ]
    assert np.array_equal(*both)
    drawn = untrained_protector(method="random")
    assert not np.array_equal(
        drawn.apply(series.volume, series_uid=series.series_uid).delta,
        drawn.apply(as_nifti.volumes[0], series_uid=as_nifti.series_uid).delta,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kept_as", KEPT_AS)
@pytest.mark.parametrize("folder", ["ct_siemens_j2k_series", "mr_siemens_mprage"])
def test_a_real_series_gets_one_change_as_dicom_and_as_nifti(tmp_path, shared, folder, kept_as):
    (files,) = scan(shared / "data" / folder).series
    series = read_series(files.paths)
    path = convert(series, tmp_path / "scan.nii", KEPT_AS[kept_as])
    if series.volume.pixels.padding is not None:
        pytest.fail("choose a series without padding: NIfTI has no word for it")
    assert_same_change(series, path, "random")
