"""Regions: pairs of rising and falling voxels, the balance of every region, its edge in voxels."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from salm_dicom.intensity import region_edge
from salm_dicom.perturb import Limits, quota, to_integers
from salm_dicom.perturb.pairs import top_pairs
from salm_dicom.plan import ProtectionPlan
from salm_dicom.volume import StoredPixels, Volume


def drawn(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=rng), torch.rand(shape, generator=rng) > 0.3


def regions(values: torch.Tensor, edge: int):
    """Yield the squares of (rows, columns)."""
    rows, columns = values.shape
    for top, left in itertools.product(range(0, rows, edge), range(0, columns, edge)):
        yield values[top : top + edge, left : left + edge]


@pytest.mark.parametrize("edge", [4, 7, 50])
def test_every_region_has_as_many_rising_as_falling_voxels(edge):
    score, foreground = drawn(0, 2, 1, 3, 25, 18)
    chosen = top_pairs(score, foreground, 0.2, edge)
    assert not (chosen & ~foreground).any()
    for sample in range(2):
        taken = int(chosen[sample].sum())
        most = quota(foreground[sample].numpy(), 0.2)
        assert most - 1 <= taken <= most  # scattered scores fill the share
        for plane, picked in zip(score[sample, 0], chosen[sample, 0], strict=True):
            signs = torch.where(picked, plane.sign(), 0.0)
            assert all(square.sum() == 0 for square in regions(signs, edge))


def test_no_other_balanced_choice_is_more_salient():
    score, _ = drawn(1, 1, 1, 2, 4)
    chosen = top_pairs(score, torch.ones_like(score, dtype=torch.bool), 0.5, 2)
    flat = score.reshape(-1)
    region = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    best = 0.0
    for picked in itertools.combinations(range(8), 4):
        index = list(picked)
        sums = [flat[index].sign()[region[index] == one].sum() for one in (0, 1)]
        if not any(sums):
            best = max(best, float(flat[index].abs().sum()))
    assert float(flat[chosen.reshape(-1)].abs().sum()) == pytest.approx(best)


def test_a_region_of_one_sign_gives_nothing_and_one_region_does_not_take_all():
    score = torch.full((1, 1, 8, 16), 0.01)
    score[..., ::2] *= -1
    score[..., :8] = 9.0  # a region that only rises
    score[..., :4, 8:12] *= 100  # a corner of the other one
    chosen = top_pairs(score, torch.ones_like(score, dtype=torch.bool), 0.2, 8)
    assert not chosen[..., :8].any()
    assert int(chosen.sum()) == 26  # 0.2 of 128, all in the other region: 2 rho of its 64 voxels


def test_of_equal_scores_the_first_rises_and_the_last_falls_and_a_score_of_zero_is_never_taken():
    score = torch.tensor([0.0, 1, 1, 1, -1, -1, -1, 0]).reshape(1, 1, 1, 8)
    whole = torch.ones_like(score, dtype=torch.bool)
    assert top_pairs(score, whole, 0.25, None).reshape(-1).nonzero().reshape(-1).tolist() == [1, 6]
    assert int(top_pairs(score, whole, 1.0, None).sum()) == 6


@pytest.mark.parametrize("edge", [3, 5, 8, 100])
def test_the_changes_of_every_region_add_up_to_0_whatever_the_method_wished(edge):
    wish, foreground = drawn(edge, 2, 1, 4, 17, 13)
    x = np.full(wish.shape, 100, dtype=np.int16)
    x[..., 5:9] = 3  # near the padding, which changes must not end in
    limits = Limits(
        budget=np.full((2, 1, 1, 1, 1), 6.0, dtype=np.float32), low=0, high=255, padding=(0, 1)
    )
    arguments = (4 * wish.numpy() + 1, x, foreground.numpy(), limits)
    found = to_integers(*arguments, rho=0.7, zero_mean=True, region=edge)
    assert np.count_nonzero(found) > 100
    assert not ((x + found <= 1) & (found != 0)).any()
    for plane in torch.from_numpy(found).reshape(-1, 17, 13):
        assert all(square.sum() == 0 for square in regions(plane, edge))


def volume(spacing: float, rows: int) -> Volume:
    pixels = StoredPixels(
        values=np.zeros((1, rows, rows), dtype=np.int16), slope=np.ones(1), intercept=np.zeros(1),
        bits_stored=12, signed=True,
    )  # fmt: skip
    return Volume(pixels=pixels, affine=np.diag([spacing, spacing, 1, 1]), modality="CT")


def test_a_region_is_stated_in_mm_and_never_smaller_than_three_pixels_that_a_surrogate_sees():
    plan = ProtectionPlan()
    assert region_edge(plan, volume(0.5, 512)) == 20
    assert region_edge(plan, volume(2.0, 512)) == 12  # 512 voxels in 128 pixels
    assert region_edge(plan, volume(1.0, 64)) == 10
    assert region_edge(replace(plan, region_mm=25.0), volume(0.5, 512)) == 50
    assert region_edge(replace(plan, zero_mean=False), volume(0.5, 512)) is None
