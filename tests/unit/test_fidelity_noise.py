"""Rows 4 and 6: noise in homogeneous squares, contrast of lesions and tissues, in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.noise import contrast, noise
from tests.subjects import body, changed, pixels, region, square


def values(metric, subject) -> dict[str, float]:
    return {f"{one.name} {one.where}".strip(): one.value for one in metric(subject)}


def test_noise_that_is_added_adds_to_the_variance():
    subject = body(size=192, noise=20.0, slices=1)
    rng = np.random.default_rng(5)
    for share in (0.1, 0.3, 0.458):
        found = values(noise, changed(subject, 20 * share * rng.normal(size=subject.mask.shape)))
        assert found["noise_sd"] == pytest.approx(100 * (np.hypot(1, share) - 1), abs=1.5)


def test_noise_that_is_smoothed_away_counts_as_well():
    subject = body(size=192, noise=20.0, slices=1)
    mean = np.where(subject.pixels.values - 1024 < -30, -90, 40) + 1024
    found = values(noise, changed(subject, -0.2 * (subject.pixels.values - mean)))
    assert found["noise_sd"] == pytest.approx(20, abs=1)


def test_a_shift_is_no_noise_and_edges_are_not_taken_for_noise():
    subject = body(size=192, slices=1)
    assert values(noise, changed(subject, np.full((1, 1, 1), 6)))["noise_sd"] < 1e-6
    soft = (subject.pixels.values > 1024 - 30) & subject.mask
    assert values(noise, changed(subject, 60 * soft))["noise_sd"] < 1e-6


def test_the_worst_slice_is_named():
    subject = body(size=128, slices=3)
    delta = np.zeros(subject.mask.shape)
    delta[2] = np.random.default_rng(0).normal(0, 12, delta[2].shape)
    (found,) = noise(changed(subject, delta))
    assert found.at == "slice 3"


def test_an_image_without_any_noise_says_so():
    subject = body(noise=0.0)
    with pytest.raises(Unmeasurable, match="fewer than 4 squares"):
        list(noise(subject))


def lesion(size: int = 20, height: int = 160):
    subject = body(size=128, slices=1)
    where = square(subject, size, (64, 64))
    stored = (subject.pixels.values + height * where).astype(np.int16)
    return replace(
        subject,
        pixels=pixels(stored),
        after=stored,
        regions=(region("lesion", where),),
    ), where


def test_a_lesion_that_moves_by_6_of_160_hu_loses_that_share_of_its_contrast():
    subject, where = lesion()
    found = values(contrast, changed(subject, -6 * where))
    assert found == {"contrast region lesion": pytest.approx(100 * 6 / 160, rel=0.05)}


def test_a_change_of_all_tissue_leaves_contrast_as_it_is():
    subject, _ = lesion()
    assert values(contrast, changed(subject, np.full((1, 1, 1), 6)))[
        "contrast region lesion"
    ] == pytest.approx(0, abs=1e-9)


def test_surroundings_end_before_the_next_lesion_and_begin_beyond_the_edge():
    subject, where = lesion()
    near = np.roll(where, 24, axis=2)
    both = replace(subject, regions=(*subject.regions, region("other", near)))
    (one, *_) = contrast(changed(both, 50 * near))
    assert one.value == pytest.approx(0, abs=1e-9)
    edge = square(subject, 24, (64, 64)) & ~where
    (one,) = contrast(changed(subject, 50 * edge))
    assert one.value == pytest.approx(0, abs=1e-9)


def test_a_lesion_that_nobody_can_see_has_no_contrast_to_lose():
    subject, _ = lesion(height=4)
    with pytest.raises(Unmeasurable, match=r"no region stands out from the noise .*: lesion"):
        list(contrast(subject))


def test_without_regions_neighbouring_tissues_stand_against_each_other():
    subject = body(size=192, slices=1)
    fat = (subject.pixels.values < 1024 - 30) & subject.mask
    (found,) = contrast(changed(subject, 13 * fat))
    assert found.value == pytest.approx(100 * 13 / 130, rel=0.02)
    assert (found.where, found.at) == ("neighbouring tissues", "fat and soft tissue")
    flat = replace(subject, mask=subject.mask & ~fat)
    with pytest.raises(Unmeasurable, match="--regions"):
        list(contrast(flat))
