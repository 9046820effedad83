"""Row 3: shift of means over windows, tissues, slices and outlined regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.shifts import shifts
from tests.subjects import body, changed, pixels, region, square


def read(subject) -> dict[str, float]:
    return {f"{one.name} {one.where}".strip(): one.value for one in shifts(subject)}


def places(subject) -> dict[str, str]:
    return {f"{one.name} {one.where}".strip(): one.at for one in shifts(subject)}


SMALL, LARGE = "small_window_shift 10 mm window", "window_shift 20 mm window"


def test_what_did_not_change_has_no_shift():
    subject = body()
    outlined = replace(subject, regions=(region("liver", square(subject, 9, (64, 64))),))
    assert set(read(outlined).values()) == {0.0}
    assert len(read(outlined)) == 5


def test_a_patch_shows_in_its_window_though_the_slice_keeps_its_mean():
    subject = body()
    delta = 6 * square(subject, 24, (50, 50), 1) - 6.0 * square(subject, 24, (80, 80), 1)
    found = read(changed(subject, delta))
    assert found == {
        SMALL: 6.0,
        LARGE: 6.0,
        "tissue_shift": 0.0,
        "slice_shift": 0.0,
    }
    assert places(changed(subject, delta))[SMALL] == "slice 2"


@given(
    side=st.integers(1, 30),
    row=st.integers(30, 98),
    column=st.integers(30, 98),
    change=st.integers(1, 40),
)
def test_a_window_is_never_shifted_by_more_than_the_largest_mean_of_its_size(
    side, row, column, change
):
    subject = body(slices=1)
    delta = change * square(subject, side, (row, column))
    found = changed(subject, delta)
    # every window of the same size, one by one
    windows = np.lib.stride_tricks.sliding_window_view
    for size, name in ((10, SMALL), (20, LARGE)):
        inside = windows(subject.mask[0], (size, size)).sum(axis=(2, 3))
        total = windows((found.after - subject.pixels.values)[0].astype(int), (size, size))
        means = np.where(inside >= 0.5 * size**2, total.sum(axis=(2, 3)) / np.maximum(inside, 1), 0)
        value = read(found)[name]
        assert value <= means.max() + 1e-9
        # windows stand up to an eighth of their side apart
        assert value >= means.max() - change * (2 / 8)


def test_the_closed_form_of_a_patch_smaller_than_the_window():
    subject = body(slices=1)
    found = read(changed(subject, 6 * square(subject, 5, (64, 64))))
    assert found[SMALL] == pytest.approx(6 * 25 / 100)
    assert found[LARGE] == pytest.approx(6 * 25 / 400)


def test_windows_are_millimetres_whatever_the_voxels():
    subject = body(slices=1)
    fine = replace(subject, spacing_mm=(0.5, 2.0))
    found = read(changed(fine, 6 * square(subject, 4, (64, 64))))
    # 20 rows and 5 columns are 10 mm: 4 x 4 voxels of 100
    assert found[SMALL] == pytest.approx(6 * 16 / 100)


def test_white_noise_has_almost_no_shift_and_grows_with_its_size():
    subject, rng = body(slices=2), np.random.default_rng(1)
    signs = rng.choice([-1, 1], size=subject.mask.shape)
    values = [read(changed(subject, e * signs))[SMALL] for e in (1, 2, 4, 8)]
    assert values == sorted(values)
    assert values[0] < 0.6
    assert values[3] == pytest.approx(8 * values[0])


def test_a_tissue_that_moves_is_named():
    subject = body()
    fat = (subject.pixels.values - 1024 < -30) & subject.mask
    found = {one.name: one for one in shifts(changed(subject, 3 * fat))}
    assert found["tissue_shift"].value == 3.0
    assert found["tissue_shift"].at == "fat, slice 1"


def test_a_lesion_is_measured_by_itself_over_its_slices():
    subject = body()
    lesion = square(subject, 8, (64, 64), 0) | square(subject, 8, (64, 64), 1)
    outlined = replace(subject, regions=(region("lesion", lesion),))
    found = read(changed(outlined, 6 * square(subject, 8, (64, 64), 0)))
    assert found["region_shift region lesion"] == pytest.approx(3.0)


def test_slope_counts_and_modalities_without_a_unit_are_in_percent_of_their_range():
    subject = body(slices=1)
    delta = np.full(subject.mask.shape, 2)
    steep = replace(
        subject, pixels=pixels(subject.pixels.values, slope=2.5), intensity_range=(-9e9, 9e9)
    )
    assert read(changed(steep, delta))["slice_shift"] == pytest.approx(5.0)
    mr = replace(subject, modality="MR", intensity_range=(0.0, 500.0))
    found = list(shifts(changed(mr, delta)))
    assert {one.unit for one in found} == {"%"}
    assert all(one.value == pytest.approx(100 * 2 / 500) for one in found)


def test_uptake_is_a_share_of_what_was_there():
    stored = np.full((1, 64, 64), 400, np.int16)
    subject = body(slices=1, size=64)
    flat = replace(
        subject, pixels=pixels(stored, slope=0.5, intercept=0), after=stored, modality="PT"
    )
    outlined = replace(flat, regions=(region("tumour", square(flat, 10, (32, 32))),))
    found = list(shifts(changed(outlined, np.full(stored.shape, 8))))
    assert [one.value for one in found] == pytest.approx([2.0] * 5)


def test_a_volume_without_foreground_is_not_measured():
    subject = body()
    with pytest.raises(Unmeasurable, match="no foreground"):
        list(shifts(replace(subject, mask=np.zeros_like(subject.mask))))
    nowhere = replace(subject, regions=(region("gone", np.zeros_like(subject.mask)),))
    with pytest.raises(Unmeasurable, match="region gone has no voxel"):
        list(shifts(nowhere))
