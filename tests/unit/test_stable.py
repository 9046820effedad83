"""SEM: noise while the perturbation is sought, and a surrogate that is trained against attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from salm_dicom.learning import attacked
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb import METHODS, Limits, Settings
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import load, save
from salm_dicom.protector.batches import Drawn, passes_of_training
from salm_dicom.protector.fit import Study, fit
from salm_dicom.protector.sampled import read_samples
from tests.unit.volumes import phantom_volume

PLAN = ProtectionPlan(
    method="stable", slice_size=(32, 32), rounds=2, batches=2, batch_size=4, steps=2,
    epsilon="8/255",
)  # fmt: skip
BUDGET = 10.0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_step_sees_the_image_with_other_noise_of_half_the_budget():
    seen: list[torch.Tensor] = []

    def loss(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return (x**2).sum()

    x = torch.full((1, 1, 20, 20), 100.0)
    mask = torch.ones_like(x, dtype=torch.bool)
    limits = Limits(budget=torch.full((1, 1, 1, 1), BUDGET), low=0, high=4095)
    method = METHODS["stable"](
        Settings(rho=0.2, steps=3, step_size=1.0, schedule="round", zero_mean=False)
    )
    shadow = method(x, loss, mask, limits, generator())
    # the loss falls with the values: after a step of the whole budget all are that much darker
    assert (shadow == -BUDGET).all()
    for at, one in zip((x, x - BUDGET, x - BUDGET), seen, strict=True):
        noise = one - at
        assert 0.45 * BUDGET < noise.abs().max() <= 0.5 * BUDGET
        assert noise.mean().abs() < 0.1 * BUDGET
    assert not torch.equal(seen[1], seen[2])


def test_an_attack_on_a_linear_loss_ends_at_its_radius():
    weights = torch.tensor([1.0, -2.0, 3.0, -4.0]).reshape(2, 1, 1, 2)
    x = torch.tensor([0.5, 0.5, 0.95, 0.5]).reshape(2, 1, 1, 2)
    radius = torch.tensor([0.1, 0.2]).reshape(-1, 1, 1, 1)

    def loss(seen: torch.Tensor) -> torch.Tensor:
        return (weights * seen).sum()

    found = attacked(loss, x, generator(), radius=radius, step=radius / 5, steps=10)
    torch.testing.assert_close(found.reshape(-1), torch.tensor([0.6, 0.4, 1.0, 0.3]))
    assert torch.equal(attacked(loss, x, generator(), radius=0 * radius, step=radius, steps=1), x)


def samples(plan: ProtectionPlan, folder) -> list:
    studies = [
        Study(label=label, load=lambda lungs=lungs: phantom_volume(lungs=lungs, slices=3))
        for label, lungs in (("a", True), ("b", False))
    ]
    found, _, _ = read_samples(
        studies, ["a", "b"], plan, "slice", folder, lambda *_: None, lambda *_: None
    )
    return found


def test_a_batch_is_changed_against_the_network_by_half_the_budget_at_most(tmp_path):
    found = samples(PLAN, tmp_path)
    # 8/255 of the range of CT, rounded down to whole HU: 12
    assert found[0].budget_seen(1) == pytest.approx(12 / 400)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 32, 2)).train()
    places = [(one, i) for one in range(2) for i in range(3)]
    drawn = {
        method: Drawn(
            sample=lambda number: found[number], places=places,
            plan=replace(PLAN, method=method), size=(32, 32), network=network,
        )(generator())
        for method in ("dense", "stable")
    }  # fmt: skip
    (plain, targets), (changed, same) = drawn["dense"], drawn["stable"]
    assert torch.equal(targets, same)
    assert 0 < (changed - plain).abs().max() <= 6 / 400 + 1e-6
    assert network.training  # attacked as it is used, then trained on
    network.eval()
    loss = OBJECTIVES["classification"].loss
    assert loss(network(changed), targets) > loss(network(plain), targets)


def test_passes_of_an_attack_are_counted():
    assert passes_of_training(replace(PLAN, method="dense")) == 8
    assert passes_of_training(PLAN) == 8 * 11


def test_a_fit_of_it_applies_and_survives_the_disk(tmp_path):
    studies = [
        Study(label=label, load=lambda lungs=lungs: phantom_volume(lungs=lungs, slices=3))
        for label, lungs in (("a", True), ("b", False))
    ]
    stable, dense = (fit(studies, replace(PLAN, method=m), tmp_path) for m in ("stable", "dense"))
    assert stable.report["slice_passes_per_image"] == pytest.approx(2 + 2 * 8 * 11 / 6)
    save(stable, tmp_path / "protector")
    volume = phantom_volume(slices=3)
    delta, again, plain = (
        one.apply(volume, series_uid="1.2", label="a").delta
        for one in (stable, load(tmp_path / "protector"), dense)
    )
    assert (delta == again).all()
    assert (delta != plain).any()
    assert 0 < abs(delta).max() <= 12
