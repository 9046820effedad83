"""Mosaics, overlays above the pixels, Philips' slope for each slice, values that do not fit."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array

from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.dicom.splice import EXPLICIT_LITTLE
from salm_dicom.errors import MismatchError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from tests.synthetic import write_ct_series
from tests.unit.derivations import derivation

RANDOM = Protector(plan=ProtectionPlan(method="random"))
MR = {"modality": "MR", "signed": False, "bits_stored": 12}


def edit(paths, **values):
    """Set attributes of each file; a callable is given the file's number."""
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value(number) if callable(value) else value)
        dataset.save_as(path)


def protect(paths, folder):
    series = read_series(paths)
    found = RANDOM.apply(series.volume, series_uid=series.series_uid)
    how = derivation(**{f: getattr(found.record, f) for f in ("budget_stored", "digest")})
    write_series(series.origin, lambda i, _: found.delta[i : i + 1], folder, how)
    return series, found


def test_mosaics_are_images_of_tiles_and_no_volume(tmp_path):
    paths = write_ct_series(tmp_path / "in", slices=3, rows=64, columns=64, **MR)
    edit(paths, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    (one,) = scan(tmp_path / "in").series
    assert "mosaic" in one.stack.irregular
    plan = ProtectionPlan(method="random", extent="volume")
    volume = read_series(paths).volume
    found = Protector(plan=plan).apply(volume, series_uid="1")
    assert found.record.extent == "slice"
    assert found.record.warnings
    _, written = protect(paths, tmp_path / "out")
    for index, path in enumerate(one.paths):
        after = pixel_array(tmp_path / "out" / f"{index + 1:05d}.dcm").astype(int)
        assert np.array_equal(after - pixel_array(path), written.delta[index])


def test_a_slope_for_each_slice_gives_each_its_own_budget(tmp_path):
    paths = write_ct_series(tmp_path / "in", slices=4, **MR)
    edit(paths, RescaleSlope=lambda n: 1.0 + 0.5 * n, RescaleIntercept=lambda n: -2.0 * n)
    series, found = protect(paths, tmp_path / "out")
    assert series.volume.pixels.slope.tolist() == [1.0, 1.5, 2.0, 2.5]
    width = found.record.intensity_range[1] - found.record.intensity_range[0]
    for slope, delta in zip(series.volume.pixels.slope, found.delta, strict=True):
        assert np.abs(delta).max() == int(4 / 255 * width / slope + 1e-9)


def test_bits_above_the_stored_ones_are_in_the_written_file(tmp_path):
    (path,) = write_ct_series(tmp_path / "in", slices=1, **MR)
    dataset = pydicom.dcmread(path)
    words = np.frombuffer(dataset.PixelData, "<u2").copy()
    words[::5] |= 0x8000
    dataset.PixelData = words.tobytes()
    dataset.save_as(path)
    _, found = protect([path], tmp_path / "out")
    target = read(tmp_path / "out" / "00001.dcm")
    after = np.frombuffer(target.value(0x7FE00010), "<u2")
    assert np.array_equal(after & 0xF000, words & 0xF000)
    changed = (after & 0xFFF).astype(int) - (words & 0xFFF)
    assert np.array_equal(changed, found.delta.reshape(-1))


def test_a_value_that_its_vr_cannot_hold_is_never_written():
    EXPLICIT_LITTLE.element(0x00104000, "LT", b"x" * 65534)
    with pytest.raises(MismatchError, match="65534"):
        EXPLICIT_LITTLE.element(0x00104000, "LT", b"x" * 65536)
    assert len(EXPLICIT_LITTLE.element(0x00081120, "SQ", b"x" * 65536)) == 65548
