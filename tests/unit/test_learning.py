"""The loss of stored values through a network's input: looked at whole, and where few change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from salm_dicom import learning
from salm_dicom.learning import InputLoss, network_input
from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import gradient, of_turn
from salm_dicom.perturb.salm import Salm

WINDOW = (-160.0, 240.0)


def stored(*shape: int) -> Tensor:
    """Return values of which some lie outside the window, whatever the slopes below."""
    rng = torch.Generator().manual_seed(5)
    return torch.randint(-300, 400, shape, generator=rng).float()


def loss_of(x: Tensor, size: tuple[int, ...], slope: Tensor | None = None) -> InputLoss:
    """Return a loss that is not the same everywhere, of a network's input of this size."""
    rng = torch.Generator().manual_seed(6)
    weights = torch.randn(len(x), 1, *size, generator=rng)
    one = torch.ones(1, *[1] * (x.ndim - 1))

    def measure(images: Tensor) -> Tensor:
        assert images.shape == weights.shape
        return (weights * images).sin().sum() + (images**2).sum()

    return InputLoss(measure, one if slope is None else slope, -7.0 * one, WINDOW, size)


CASES = {
    "pictures": ((3, 1, 12, 20), (4, 5), None),
    "slopes by picture": ((2, 1, 8, 8), (4, 4), torch.tensor([0.5, 2.0]).view(2, 1, 1, 1)),
    "one way only": ((2, 1, 8, 6), (8, 3), None),
    "volumes, slopes by slice": (
        (2, 1, 4, 6, 6), (2, 3, 2), torch.linspace(0.5, 2, 4).view(1, 1, 4, 1, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_a_few_values_is_that_of_all(case):
    shape, size, slope = CASES[case]
    x = stored(*shape)
    loss = loss_of(x, size, slope)
    at = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(7))[:50].sort().values
    few = loss.among(x, at)
    values = x.reshape(-1)[at] + torch.linspace(-60, 60, len(at)).round()
    whole = x.clone()
    whole.view(-1)[at] = values
    assert few is not None
    torch.testing.assert_close(few(values), loss(whole))
    slopes = gradient(loss, whole).reshape(-1)[at]
    torch.testing.assert_close(gradient(few, values), slopes)
    assert 0 < int((slopes == 0).sum()) < len(at)  # what is outside the window has no gradient
    torch.testing.assert_close(few(x.reshape(-1)[at]), loss(x))


def test_after_the_first_step_losses_take_turns_of_a_few_values_as_of_all():
    x, size = stored(3, 1, 12, 20), (4, 5)
    plain = loss_of(x, size)
    others = tuple(replace(plain, measure=lambda seen, n=n: n * seen.sum()) for n in (2.0, 3.0))
    loss = replace(plain, turns=others)
    assert [loss.turn(step) for step in range(6)] == [loss, *others, *others, others[0]]
    assert plain.turn(4) is plain
    few = loss.among(x, torch.arange(x.numel()))
    for step in range(4):
        torch.testing.assert_close(few.turn(step)(x.reshape(-1)), loss.turn(step)(x))
        assert of_turn(few, step)(x.reshape(-1)) == few.turn(step)(x.reshape(-1))
    assert of_turn(torch.sum, 3) is torch.sum


@pytest.mark.parametrize("size", [(12, 12), (5, 4), (4, 5), (24, 24), (24, 6)])
def test_areas_that_are_single_voxels_overlap_or_grow_are_looked_at_whole(size):
    x = stored(2, 1, 12, 12)
    assert loss_of(x, size).among(x, torch.arange(4)) is None


def test_values_on_another_device_are_looked_at_whole():
    x = stored(2, 1, 12, 12)
    assert loss_of(x, (6, 6)).among(x, torch.arange(4, device="meta")) is None


def test_the_mode_of_the_caller_does_not_matter():
    loss = loss_of(stored(2, 1, 8, 8), (4, 4), torch.full((2, 1, 1, 1), 0.7))
    with torch.inference_mode():
        x, at = stored(2, 1, 8, 8), torch.arange(0, 128, 3)
        few = loss.among(x, at)
        slopes = gradient(loss, x).reshape(-1)[at]
        torch.testing.assert_close(gradient(few, x.reshape(-1)[at]), slopes)


@pytest.mark.parametrize("schedule", ["round", "once"])
def test_salm_perturbs_as_if_it_looked_at_all_voxels(schedule, monkeypatch):
    looks = []

    def looked(*about: Any) -> Tensor:
        looks.append(1)
        return network_input(*about)

    monkeypatch.setattr(learning, "network_input", looked)
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).eval()
    targets = torch.tensor([0, 1])

    def measure(images: Tensor) -> Tensor:
        return nn.functional.cross_entropy(network(images), targets, reduction="sum")

    x = stored(2, 1, 32, 32)
    one = torch.ones(1, 1, 1, 1)
    loss = InputLoss(measure, one, 0 * one, WINDOW, (8, 8))
    limits = Limits(budget=torch.full((2, 1, 1, 1), 8.0), low=-1000.0, high=1000.0)
    method, inside = Salm(schedule=schedule, region=16), torch.ones_like(x, dtype=torch.bool)
    start = None
    for _ in range(2):
        looks.clear()
        few = method(x, loss, inside, limits, torch.Generator(), start)
        assert len(looks) == 2  # for the first step, and for what stays in all others
        whole = method(x, lambda y: loss(y), inside, limits, torch.Generator(), start)
        assert 0.1 < float((few != 0).float().mean()) <= 0.2
        torch.testing.assert_close(few, whole)
        start = few
