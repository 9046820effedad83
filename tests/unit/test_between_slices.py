"""The term between slices: a slice follows its neighbours, and slices alone have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from salm_dicom.perturb import Limits
from salm_dicom.perturb.salm import Salm
from tests.unit.volumes import phantom_volume, untrained_protector

SHAPE = (1, 1, 5, 16, 16)


def shadow(between: float, shape: tuple[int, ...] = SHAPE, rho: float = 0.5) -> Tensor:
    """Return what `salm` does where every voxel's gradient is a random sign of its own size."""
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    limits = Limits(budget=torch.full((1,) * len(shape), 5.0), low=-100, high=100)
    method = Salm(rho=rho, steps=1, step_size=1.0, balanced=False, between=between)
    inside = torch.ones(shape, dtype=torch.bool)
    return method(
        torch.zeros(shape), lambda x: (weights * x).sum(), inside, limits, torch.Generator()
    )


def test_a_slice_takes_half_of_its_share_from_each_neighbour():
    weights = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    mixed = weights.clone()
    for index in range(5):
        before, after = weights[:, :, max(index - 1, 0)], weights[:, :, min(index + 1, 4)]
        mixed[:, :, index] = 0.4 * weights[:, :, index] + 0.3 * (before + after)
    found = shadow(0.6, rho=1.0)
    assert torch.equal(found, -5 * mixed.sign())


def test_neighbours_agree_more_than_by_chance():
    agree = []
    for between in (0.0, 0.5):
        found = shadow(between)
        agree.append(float((found[:, :, 1:] * found[:, :, :-1]).sign().sum()))
    assert abs(agree[0]) < 60  # four standard deviations of as many draws
    assert agree[1] > 150


def test_slices_that_are_samples_have_no_neighbours():
    alone = (5, 1, 16, 16)
    assert torch.equal(shadow(0.5, alone), shadow(0.0, alone))


@pytest.mark.parametrize("patches", [False, True])
def test_a_plan_says_how_much(patches):
    volume = phantom_volume(slices=8, rows=64, columns=64)
    plain, linked = (
        untrained_protector(extent="volume", patches=patches, between_slices=share).apply(
            volume, series_uid="1", label="chest"
        )
        for share in (0.0, 0.5)
    )
    assert (plain.delta != linked.delta).any()
    assert 0 < linked.record.changed_share <= linked.record.rho + 1e-3
    assert np.abs(linked.delta).max() <= linked.record.budget_stored
