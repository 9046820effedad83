"""The method `one_sided`: a texture for every label but one, and what a network makes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.audit import Images, trial
from salm_dicom.perturb import Limits, OneSided, perturb, quota
from salm_dicom.perturb.robust import blur, half_and_back
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.protector.fit import Study, fit
from salm_dicom.volume import Integers
from tests.unit.volumes import phantom_volume

GRAIN = ("fine", "coarse")

LIMITS = Limits(budget=np.full((1, 1, 1, 1), 8.0, np.float32), low=-1000, high=1000)


def shadow(method: OneSided, shape: tuple[int, ...] = (2, 1, 40, 40), seed: int = 0) -> Integers:
    x, rng = np.zeros(shape, np.int16), np.random.default_rng(seed)
    return method(x, None, np.ones(shape, dtype=bool), LIMITS, rng)


@pytest.mark.parametrize("grain", GRAIN)
def test_all_labels_change_the_same_central_voxels_and_textures_by_the_whole_budget(grain):
    for place in range(9):
        found = np.abs(shadow(OneSided(place=place, grain=grain)))
        assert not place or set(np.unique(found)) == {0, 8}
        rows, columns = np.nonzero(found[0, 0])
        assert len(rows) == 320  # 0.2 of 40 x 40
        assert np.ptp(rows) <= 18
        assert np.ptp(columns) <= 18
        np.testing.assert_array_equal(found != 0, shadow(OneSided(place=0)) != 0)


def test_the_label_without_texture_gets_every_strength_from_one_unit_to_the_budget():
    slices = np.abs(shadow(OneSided(), (400, 1, 10, 10))).reshape(400, -1)
    strength = slices.max(axis=1)
    assert all(set(np.unique(one)) == {0, most} for one, most in zip(slices, strength, strict=True))
    counts = np.unique_counts(strength)
    assert counts.values.tolist() == list(range(1, 9))
    assert counts.counts.min() > 25


@pytest.mark.parametrize("grain", GRAIN)
def test_a_texture_is_the_same_in_every_slice_and_random_signs_never_are(grain):
    for place in range(1, 9):
        method = OneSided(place=place, grain=grain)
        found = shadow(method)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found, shadow(method, seed=1))
    found = shadow(OneSided(grain=grain))
    assert (found[0] != found[1]).any()
    assert (found != shadow(OneSided(grain=grain), seed=1)).any()
    assert abs(found.mean(where=found != 0)) < 1


@pytest.mark.parametrize(("grain", "period"), [("fine", 4), ("coarse", 8)])
def test_no_two_textures_are_shifts_of_each_other(grain, period):
    textures = [
        shadow(OneSided(place=place, rho=1.0, grain=grain), (1, 1, 16, 16))[0, 0]
        for place in range(1, 9)
    ]
    for one, other in combinations(textures, 2):
        for shift in np.ndindex(period, period):
            assert (np.roll(one, shift, axis=(0, 1)) != other).any()


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize(("cell", "grid", "edges"), [(2, None, (2, 2)), (1, (10, 20), (4, 2))])
def test_cells_grow_with_the_sample_so_that_a_coarser_grid_still_shows_them(
    place, cell, grid, edges
):
    found = shadow(OneSided(place=place, rho=1.0, cell=cell, grid=grid))[0, 0]
    down, right = edges
    cells = found.reshape(40 // down, down, 40 // right, right)
    assert (cells == cells[:, :1, :, :1]).all()
    assert (np.diff(cells[:, 0, :, 0], axis=0) != 0).any() or place == 1


def test_a_coarse_texture_begins_with_rows_of_two_of_which_half_resolution_and_blur_leave_more():
    fine, coarse = (
        torch.from_numpy(shadow(OneSided(place=1, rho=1.0, grain=grain))).float() for grain in GRAIN
    )
    found = coarse[0, 0]
    assert (found == found[:, :1]).all()
    assert found[:6, 0].tolist() == [-8, -8, 8, 8, -8, -8]
    for seen, least in ((half_and_back, 3.5), (lambda x: blur(x, 1.0), 2.0)):
        left = [seen(one)[..., 4:-4, 4:-4].square().mean() ** 0.5 for one in (fine, coarse)]
        assert left[0] < 0.2
        assert left[1] > least


def test_noise_beside_a_coarse_texture_stays_fine_so_that_no_patch_moves():
    fine, coarse = (shadow(OneSided(grain=grain)) for grain in GRAIN)
    np.testing.assert_array_equal(fine, coarse)


@given(
    rows=st.integers(9, 40),
    columns=st.integers(9, 40),
    place=st.integers(0, 8),
    rho=st.floats(0.05, 1.0),
    budget=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_a_coarse_texture_keeps_budget_share_sum_and_background(
    rows, columns, place, rho, budget, seed
):
    rng = np.random.default_rng(seed)
    inside = rng.random((3, 1, rows, columns)) < 0.7
    x = rng.integers(0, 256, inside.shape).astype(np.int16)
    limits = Limits(budget=np.full((1, 1, 1, 1), budget, np.float32), low=0, high=255)
    method = OneSided(place=place, rho=rho, grain="coarse", grid=(9, 9))
    found = perturb(method, x, None, inside, limits, seed=seed)
    np.testing.assert_array_equal(found, perturb(method, x, None, inside, limits, seed=seed))
    assert np.abs(found).max() <= budget
    assert not found[~inside].any()
    assert (x + found).min() >= 0
    assert (x + found).max() <= 255
    for change, mask in zip(found, inside, strict=True):
        assert np.count_nonzero(change) <= quota(mask, rho)
        assert change.sum() == 0


def test_a_volume_has_the_texture_in_every_slice():
    found = shadow(OneSided(place=1), (1, 1, 5, 20, 20))[0, 0]
    for one in found:
        both = (one != 0) & (found[0] != 0)
        assert both.sum() > 60  # of 80, but for ties
        np.testing.assert_array_equal(one[both], found[0][both])


@pytest.mark.parametrize("classes", [2, 3])
def test_the_seed_decides_which_label_has_random_signs(tmp_path, classes):
    labels = [f"label {number}" for number in range(classes)]
    studies = [Study(label=one, load=lambda: phantom_volume()) for one in labels]
    volume = phantom_volume(slices=2)
    without = []
    for seed in range(classes):
        protector = fit(studies, ProtectionPlan(method="one_sided", seed=seed), tmp_path)
        assert not protector.surrogates
        first, second = (
            {one: protector.apply(volume, series_uid=uid, label=one).delta for one in labels}
            for uid in ("1.2", "1.3")
        )
        without += [one for one in labels if (first[one] != second[one]).any()]
    assert sorted(without) == labels


def test_a_protector_of_a_label_that_it_does_not_know_is_not_asked_for_a_place():
    protector = Protector(plan=ProtectionPlan(method="one_sided"), classes=("a", "b"))
    assert replace(protector, classes=("b", "a")).digest != protector.digest


def test_a_network_that_learned_from_protected_images_takes_clean_ones_for_the_same_label():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 2
    row, column = np.mgrid[:28, :28]
    # anatomy: a smooth bright spot, left or right of the middle; easy, but not at first sight
    middle = 13.5 + np.where(labels, 2.0, -2.0) + rng.normal(0, 1.5, 240)
    spot = np.exp(-((row - 13.5) ** 2 + (column - middle[:, None, None]) ** 2) / 60)
    stored = np.rint(60 + 120 * spot + rng.normal(0, 1, spot.shape)).astype(np.int16)[:, None]
    limits = replace(LIMITS, low=0, high=255)
    delta = np.concatenate(
        [
            perturb(
                OneSided(place=int(label)), one[None], None, one[None] >= 0, limits, seed=number
            )
            for number, (one, label) in enumerate(zip(stored, labels, strict=True))
        ]
    )

    def images(values: Integers) -> Images:
        pixels = torch.from_numpy(values.astype(np.float32) / 255)
        return Images(pixels=pixels, labels=torch.from_numpy(labels))

    clean, protected = images(stored), images(stored + delta)
    reached = {
        name: trial(
            "convnet", one, validation=one, clean_validation=clean, test=clean, seed=0, epochs=8
        )
        for name, one in (("clean", clean), ("protected", protected))
    }
    assert reached["clean"].selected > 0.8
    assert reached["protected"].train > 0.95
    assert reached["protected"].selected < 0.6
