"""Surrogates in bfloat16, and how weights lie in memory: nearly the same gradients, lawful."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from salm_dicom import networks, plan
from salm_dicom.networks import NetworkSpec
from salm_dicom.protector import load, save
from salm_dicom.protector.surrogate import Surrogate
from tests.unit.volumes import mask_on, phantom_volume, untrained_protector

WHOLE = {"slices": 8, "rows": 64, "columns": 64}
SIZES = {"slice": (32, 32), "volume": (8, 32, 32)}


def surrogate(size: tuple[int, ...], **settings: str) -> Surrogate:
    spec = NetworkSpec(size=size, classes=2, width=4, **settings)
    return Surrogate(spec=spec, weights=spec.build(1).state_dict())


def gradient(of: Surrogate) -> torch.Tensor:
    x = torch.rand((2, 1, *of.spec.size), generator=torch.Generator().manual_seed(0))
    leaf = x.requires_grad_(True)
    outputs = of.network()(leaf)
    assert outputs.dtype == torch.float32
    (slope,) = torch.autograd.grad(
        outputs.flatten(2).sum((0, 2))[0] if outputs.ndim > 2 else outputs[:, 0].sum(), leaf
    )
    return slope


def test_the_plan_knows_what_surrogates_know():
    assert tuple(networks.PRECISIONS) == plan.PRECISIONS


@pytest.mark.parametrize("objective", ["classification", "segmentation"])
@pytest.mark.parametrize("size", SIZES.values())
def test_bfloat16_turns_few_signs(size, objective):
    exact = gradient(surrogate(size, objective=objective))
    near = gradient(surrogate(size, objective=objective, precision="bfloat16"))
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert (exact.sign() == near.sign())[exact.abs() > exact.abs().median()].float().mean() > 0.9


def test_weights_lie_where_gradients_come_soonest_and_are_the_same():
    flat, deep = (surrogate(size) for size in SIZES.values())
    halved = surrogate(SIZES["volume"], precision="bfloat16")
    masks = surrogate(SIZES["slice"], objective="segmentation")
    for one, layout in (
        (flat, torch.channels_last),
        (deep, torch.contiguous_format),
        (halved, torch.channels_last_3d),
        (masks, torch.contiguous_format),
    ):
        dimensions = len(one.spec.size) + 2
        wide = [w for w in one.network().parameters() if w.ndim == dimensions and w.shape[1] > 1]
        assert wide
        assert all(w.is_contiguous(memory_format=layout) for w in wide)
        for name, weights in one.weights.items():
            assert torch.equal(weights, one.network().state_dict()[f"network.{name}"])
            assert weights.is_contiguous()


@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_protector_in_bfloat16_keeps_every_law_and_is_another_one(extent, tmp_path):
    volume = phantom_volume(**WHOLE)
    exact, near = (
        untrained_protector(extent=extent, precision=precision) for precision in plan.PRECISIONS
    )
    assert exact.digest != near.digest
    deltas = [one.apply(volume, series_uid="1.2.3", label="chest") for one in (exact, near)]
    a, b = (one.delta.astype(int) for one in deltas)
    assert (a != b).any()
    both = (a != 0) & (b != 0)
    assert both.sum() > 0.5 * (a != 0).sum()
    assert (a[both] == b[both]).mean() > 0.8
    record = deltas[1].record
    assert np.abs(b).max() <= record.budget_stored
    assert record.changed_share <= record.rho
    assert not b.reshape(len(b), -1).sum(1).any()
    save(near, tmp_path / "protector")
    again = load(tmp_path / "protector")
    assert again.plan.precision == "bfloat16"
    found = again.apply(volume, series_uid="1.2.3", label="chest")
    assert np.array_equal(found.delta, deltas[1].delta)


def test_masks_in_bfloat16_are_protected_too():
    volume = phantom_volume(**WHOLE)
    near = untrained_protector(objective="segmentation", precision="bfloat16")
    found = near.apply(volume, series_uid="1.2.3", label=mask_on(volume))
    assert 0 < found.record.changed_share <= found.record.rho
