"""Patches: every voxel is seen, gradients are those of all patches, and a fit learns from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from salm_dicom.learning import InputLoss
from salm_dicom.patches import Patches
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import load, save
from salm_dicom.protector.fit import Study, fit
from tests.unit.volumes import mask_on, phantom_volume, untrained_protector

WHOLE = {"slices": 12, "rows": 72, "columns": 64}
EDGES = st.tuples(*[st.integers(1, 40)] * 3)
SPACING = json.dumps([
    {"_target_": "Spacing", "pixdim": [1.5, 1.5, 2.0]},
    {"_target_": "ScaleIntensityRange", "a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1,
     "clip": True},
])  # fmt: skip


@given(shape=EDGES, size=EDGES)
def test_every_voxel_is_in_a_patch_and_neighbours_overlap(shape, size):
    patches = Patches(shape, size)
    seen = torch.zeros(shape)
    for index in range(len(patches)):
        place = patches.place(index)
        seen[place] += 1
        assert all(
            one.stop - one.start == min(a, b) for one, a, b in zip(place, shape, size, strict=True)
        )
    assert (seen > 0).all()
    assert torch.allclose(patches.evened(seen.clone()), torch.ones(shape))
    starts = sorted({patches.place(index)[0].start for index in range(len(patches))})
    assert all(b - a <= max(int(0.75 * size[0]), 1) for a, b in pairwise(starts))


def test_a_patch_is_its_part_of_the_volume_padded_at_the_end():
    values = torch.arange(2 * 5 * 6.0).reshape(1, 1, 2, 5, 6)
    patches = Patches((2, 5, 6), (4, 4, 4))
    assert len(patches) == 4
    last = patches.cut(values, 3)
    assert last.shape == (1, 1, 4, 4, 4)
    assert torch.equal(last[0, 0, :2], values[0, 0, :, 1:, 2:])
    assert not last[0, 0, 2:].any()


def loss_of(by_patch: bool) -> InputLoss:
    weights = torch.rand((1, 1, 4, 16, 16), generator=torch.Generator().manual_seed(0))

    def measure(patch: Tensor, cut: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return (weights * patch**2).sum()

    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    return InputLoss(
        measure, one, zero, (0.0, 1.0), (4, 16, 16), by_patch=measure if by_patch else None
    )


def test_the_loss_is_the_sum_over_patches_and_gradients_are_means():
    x = torch.rand((1, 1, 6, 20, 16), generator=torch.Generator().manual_seed(1))
    leaf = x.requires_grad_(True)
    loss = loss_of(True)(leaf)
    (slope,) = torch.autograd.grad(loss, leaf)
    patches, weights = (
        Patches((6, 20, 16), (4, 16, 16)),
        torch.rand((1, 1, 4, 16, 16), generator=torch.Generator().manual_seed(0)),
    )
    wanted, seen, total = torch.zeros_like(x), torch.zeros_like(x), 0.0
    for index in range(len(patches)):
        where = (..., *patches.place(index))
        wanted[where] += 2 * weights * x.detach()[where]
        seen[where] += 1
        total += float((weights * x.detach()[where] ** 2).sum())
    assert float(loss) == pytest.approx(total, rel=1e-5)
    assert torch.allclose(slope, wanted / seen, rtol=1e-4)
    assert loss_of(True).among(x, torch.tensor([0])) is None


def test_a_volume_that_is_one_patch_is_seen_as_it_is_without():
    x = torch.rand((1, 1, 4, 16, 16), generator=torch.Generator().manual_seed(1))
    assert float(loss_of(True)(x)) == pytest.approx(float(loss_of(False)(x)))


def test_patches_of_air_are_left_out():
    asked = []

    def measure(patch: Tensor, cut: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        asked.append(patch)
        return (patch**2).sum()

    one = torch.tensor(1.0)
    loss = InputLoss(measure, one, 0 * one, (0.0, 1.0), (4, 4, 4), by_patch=measure)
    x = torch.zeros((1, 1, 4, 4, 16))
    x[..., :2] = 0.5
    leaf = x.requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    assert len(Patches((4, 4, 16), (4, 4, 4))) == 5
    assert len(asked) == 1
    assert slope[..., :2].all()
    (nothing,) = torch.autograd.grad(loss(0 * leaf), leaf)
    assert not nothing.any()


@pytest.mark.parametrize("preprocessing", ["", SPACING])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_law_holds_and_the_change_is_another_one(preprocessing, precision):
    settings = {"extent": "volume", "preprocessing": preprocessing, "precision": precision}
    volume = phantom_volume(**WHOLE)
    patched = untrained_protector(patches=True, **settings)
    whole = untrained_protector(**settings)
    found = patched.apply(volume, series_uid="1.2.3", label="chest")
    delta, record = found.delta.astype(int), found.record
    assert record.extent == "volume"
    assert 0 < np.abs(delta).max() <= record.budget_stored
    assert 0 < record.changed_share <= record.rho + 1e-3
    assert not delta.reshape(len(delta), -1).sum(1).any()
    assert not delta[~np.stack([found.outline.at(index) for index in range(len(delta))])].any()
    assert (delta != whole.apply(volume, series_uid="1.2.3", label="chest").delta).any()
    again = patched.apply(volume, series_uid="1.2.3", label="chest")
    assert np.array_equal(again.delta, found.delta)


def test_masks_are_cut_with_their_volume():
    volume = phantom_volume(**WHOLE)
    protector = untrained_protector(extent="volume", patches=True, objective="segmentation")
    found = protector.apply(volume, series_uid="1.2.3", label=mask_on(volume))
    assert 0 < found.record.changed_share <= found.record.rho + 1e-3


@pytest.mark.parametrize(
    "more", [{}, {"preprocessing": SPACING}, {"objective": "segmentation"}, {"method": "stable"}]
)
def test_a_fit_learns_from_patches_and_goes_on_where_it_was(tmp_path: Path, more):
    plan = ProtectionPlan(
        extent="volume", patches=True, slice_size=(16, 16), volume_size=(8, 32, 32), rounds=2,
        steps=2, batches=3, **more,
    )  # fmt: skip
    loads = [lambda n=n: phantom_volume(**WHOLE, seed=n) for n in range(3)]
    studies = [
        Study(load=load_one, label="aab"[n], mask=lambda load_one=load_one: mask_on(load_one()),
              digest=lambda n=n: f"{n}")
        if plan.needs_masks else Study(load=load_one, label="aab"[n], digest=lambda n=n: f"{n}")
        for n, load_one in enumerate(loads)
    ]  # fmt: skip
    (tmp_path / "a").mkdir()
    fitted = fit(studies, plan, tmp_path / "a")
    assert 3 < fitted.report["volume_samples"] <= 3 * len(Patches((12, 72, 64), (8, 32, 32)))
    assert 0 <= fitted.report["volume_error_on_protected"] <= 1

    class Stopped(BaseException):
        pass

    def stop(what: str, done: int, _: int) -> None:
        if (what, done) == ("fit (volume)", 1):
            raise Stopped

    (tmp_path / "b").mkdir()
    with pytest.raises(Stopped):
        fit(studies, plan, tmp_path / "b", stop)
    again = fit(studies, plan, tmp_path / "b")
    assert again.digest == fitted.digest
    save(again, tmp_path / "protector")
    volume = phantom_volume(**WHOLE)
    target = mask_on(volume) if plan.needs_masks else "a"
    one, other = (
        p.apply(volume, series_uid="1", label=target).delta
        for p in (fitted, load(tmp_path / "protector"))
    )
    assert np.array_equal(one, other)
    whole = replace(fitted, plan=replace(plan, patches=False))
    assert (whole.apply(volume, series_uid="1", label=target).delta != one).any()


def test_a_fit_draws_no_patches_of_air(tmp_path: Path):
    plan = ProtectionPlan(
        extent="volume", patches=True, slice_size=(16, 16), volume_size=(4, 8, 8), rounds=1,
        steps=1, batches=1,
    )  # fmt: skip
    volumes = [phantom_volume(slices=8, rows=64, columns=64, seed=n) for n in range(2)]
    studies = [Study(load=lambda v=v: v, label=name) for v, name in zip(volumes, "ab", strict=True)]
    fitted = fit(studies, plan, tmp_path)
    patches, shown = Patches((8, 64, 64), (4, 8, 8)), 0
    for volume in volumes:
        values = torch.from_numpy(volume.pixels.modality_values())[None, None]
        shown += sum(bool((patches.cut(values, k) > -160).any()) for k in range(len(patches)))
    assert fitted.report["volume_samples"] == shown < 2 * len(patches)
