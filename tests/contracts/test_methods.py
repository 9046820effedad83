"""The contract of every method in METHODS: budget, mask, range and padding hold after rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom.perturb import METHODS, Limits, Salm, Settings, dense, perturb
from salm_dicom.volume import StoredPixels


@dataclass(frozen=True)
class Case:
    """Stored values of one kind, with a foreground and limits."""

    pixels: StoredPixels
    x: torch.Tensor
    foreground: torch.Tensor
    limits: Limits
    rho: float


@st.composite
def cases(draw: st.DrawFn) -> Case:
    bits, signed = draw(st.sampled_from([8, 12, 16])), draw(st.booleans())
    slices, rows, columns = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 9)),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    half = 1 << (bits - 1)
    low, high = (-half, half - 1) if signed else (0, 2 * half - 1)
    kind = np.dtype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    values = rng.integers(low, high + 1, (slices, rows, columns)).astype(kind)
    edge = draw(st.one_of(st.none(), st.integers(low, high)))
    padding = None if edge is None else (edge, min(high, edge + draw(st.integers(0, 5))))
    if padding:
        values[rng.random(values.shape) < 0.2] = padding[0]
    slope = np.full(slices, draw(st.sampled_from([1.0, 0.5, 2.02, -1.0])))
    pixels = StoredPixels(
        values=values, slope=slope, intercept=np.full(slices, -1024.0),
        bits_stored=bits, signed=signed, padding=padding,
    )  # fmt: skip
    inside = (rng.random(values.shape) < draw(st.floats(0, 1))) & ~pixels.is_padding()
    extent = draw(st.sampled_from(["slice", "volume"]))
    shape = (slices, 1, rows, columns) if extent == "slice" else (1, 1, slices, rows, columns)
    budgets = rng.integers(1, draw(st.integers(2, 60)), shape[0])
    least, most = pixels.extremes()
    limits = Limits(
        budget=torch.tensor(budgets, dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1)),
        low=least, high=most, padding=padding,
    )  # fmt: skip
    return Case(
        pixels,
        torch.from_numpy(values.astype(np.float32)).reshape(shape),
        torch.from_numpy(inside).reshape(shape),
        limits,
        draw(st.sampled_from([0.05, 0.2, 0.5, 1.0])),
    )


def loss(x: torch.Tensor) -> torch.Tensor:
    """Return something with a gradient of both signs that depends on x."""
    return torch.sin(x * 0.7 + torch.arange(x.shape[-1])).sum()


def found(name: str, case: Case, zero_mean: bool) -> torch.Tensor:
    plan = Settings(rho=case.rho, steps=3, step_size=0.4, schedule="round", zero_mean=zero_mean)
    rng = torch.Generator().manual_seed(0)
    return perturb(
        METHODS[name](plan), case.x, loss, case.foreground, case.limits, rng, zero_mean=zero_mean
    )


def assert_lawful(case: Case, delta: torch.Tensor, rho: float, zero_mean: bool) -> None:
    assert not delta.dtype.is_floating_point
    assert delta.shape == case.x.shape
    assert (delta.abs() <= case.limits.budget).all()
    assert (delta[~case.foreground] == 0).all()
    for sample, mask in zip(delta, case.foreground, strict=True):
        assert int((sample != 0).sum()) <= math.ceil(rho * int(mask.sum()) - 1e-9)
    stored = case.pixels.shifted(delta.numpy().reshape(case.pixels.values.shape))
    least, most = case.pixels.extremes()
    assert stored.values[~stored.is_padding()].min(initial=least) >= least
    assert stored.values[~stored.is_padding()].max(initial=most) <= most
    assert (stored.is_padding() == case.pixels.is_padding()).all()
    if zero_mean:
        assert (delta.reshape(case.pixels.values.shape).sum(dim=(1, 2)) == 0).all()


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=60, deadline=None)
@given(case=cases(), zero_mean=st.booleans())
def test_every_method_stays_in_its_budget_mask_and_range(name, case, zero_mean):
    delta = found(name, case, zero_mean)
    rho = 1.0 if name == "dense" else case.rho
    assert_lawful(case, delta, rho, zero_mean)
    assert torch.equal(delta, found(name, case, zero_mean))


@settings(max_examples=60, deadline=None)
@given(case=cases(), zero_mean=st.booleans(), seed=st.integers(0, 1000))
def test_a_method_that_ignores_every_limit_is_kept_inside_them(case, zero_mean, seed):
    @dataclass(frozen=True)
    class Lawless:
        rho: float
        needs_gradient: ClassVar[bool] = True

        def __call__(self, x, loss, foreground, limits, rng, start=None):
            return torch.randn(x.shape, generator=rng) * 1e4

    rng = torch.Generator().manual_seed(seed)
    delta = perturb(
        Lawless(case.rho), case.x, loss, case.foreground, case.limits, rng, zero_mean=zero_mean
    )
    assert_lawful(case, delta, case.rho, zero_mean)


@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_subtracting_the_change_gives_the_source_back_exactly(case):
    delta = found("random", case, zero_mean=True).numpy().reshape(case.pixels.values.shape)
    back = case.pixels.shifted(delta).shifted(-delta)
    assert np.array_equal(back.values, case.pixels.values)


def image(shape=(2, 1, 16, 16)) -> tuple[torch.Tensor, torch.Tensor, Limits]:
    x = torch.randint(0, 1000, shape, generator=torch.Generator().manual_seed(3)).float()
    limits = Limits(budget=torch.full((shape[0], 1, 1, 1), 6.0), low=-1e4, high=1e4)
    return x, torch.ones(shape, dtype=torch.bool), limits


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_found_where_somebody_switched_them_off(mode):
    x, foreground, limits = image()
    rng = torch.Generator().manual_seed(0)
    expected = perturb(Salm(), x, loss, foreground, limits, rng)
    with mode():
        assert torch.equal(perturb(Salm(), x, loss, foreground, limits, rng), expected)


def test_salm_lowers_the_loss_and_the_random_control_does_not():
    x, foreground, limits = image()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))

    def linear(stored: torch.Tensor) -> torch.Tensor:
        return (stored * weight).sum()

    rng = torch.Generator().manual_seed(0)
    change = {
        name: float((perturb(method, x, linear, foreground, limits, rng) * weight).sum())
        for name, method in {
            "salm": Salm(rho=0.2),
            "random": METHODS["random"](
                Settings(rho=0.2, steps=1, step_size=1, schedule="round", zero_mean=True)
            ),
        }.items()
    }
    assert change["salm"] < -3 * abs(change["random"])


def test_salm_takes_the_voxels_with_the_steepest_gradient():
    x, foreground, limits = image((1, 1, 10, 10))
    weight = torch.arange(100.0).reshape(x.shape) - 49.5
    shadow = Salm(rho=0.2, balanced=False)(
        x, lambda s: (s * weight).sum(), foreground, limits, torch.Generator()
    )
    chosen = torch.nonzero(shadow.reshape(-1))[:, 0].tolist()
    assert chosen == [*range(10), *range(90, 100)]


def test_salm_with_rho_1_is_dense_bit_for_bit():
    x, foreground, limits = image()
    rng = torch.Generator().manual_seed(0)
    one = Salm(rho=1.0)(x, loss, foreground, limits, rng)
    assert torch.equal(one, dense()(x, loss, foreground, limits, rng))
    assert (one != 0).float().mean() > 0.8


def test_the_step_schedule_reaches_more_voxels_than_the_round_schedule_bounds():
    x, foreground, limits = image()
    rng = torch.Generator().manual_seed(0)

    def curved(stored: torch.Tensor) -> torch.Tensor:
        return torch.sin(stored).sum()

    count = {
        schedule: int((Salm(schedule=schedule)(x, curved, foreground, limits, rng) != 0).sum())
        for schedule in ("step", "round")
    }
    assert count["round"] <= math.ceil(0.2 * 256) * 2 + 2 < count["step"]
