"""The contract of every row of METHODS: within budget, mask, range and padding, and repeatable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from salm_dicom.perturb import EOT, METHODS, WITHOUT_TORCH, Limits, Method, Settings
from salm_dicom.perturb import perturb as perturb_arrays
from salm_dicom.perturb.loss import Loss, gradient
from salm_dicom.perturb.robust import TRANSFORMS, blur
from salm_dicom.perturb.salm import Salm, dense
from salm_dicom.perturb.top_k import top_k


def arrays(limits: Limits[Tensor]) -> Limits[np.ndarray]:
    return replace(limits, budget=limits.budget.numpy())


def perturb(
    method: Method,
    x: Tensor,
    loss: Loss,
    foreground: Tensor,
    limits: Limits[Tensor],
    rng: torch.Generator,
    *,
    zero_mean: bool = True,
) -> Tensor:
    """Call what the protector calls, with tensors."""
    seed = rng.initial_seed() % 2**32
    found = perturb_arrays(
        method, x.numpy(), loss, foreground.numpy(), arrays(limits), seed, zero_mean=zero_mean
    )
    return torch.from_numpy(found)


SETTINGS = Settings(rho=0.2, steps=3, step_size=0.4, schedule="round", zero_mean=True)
SLOPES = (1.0, 0.5, 2.5, 8.0, -1.0, -0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What one sample of pixels looks like, and what is asked of a method."""

    bits: int = 12
    signed: bool = True
    spatial: tuple[int, ...] = (8, 9)
    samples: int = 1
    slope: float = 1.0
    padding: str = "none"
    width: int = 60
    budget: int = 6
    budget_by_slice: bool = False
    share: float = 0.7
    rho: float = 0.2
    zero_mean: bool = True
    schedule: str = "round"
    eot: tuple[str, ...] = ()
    block: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Tensors for `perturb`, as the protector makes them."""

    x: Tensor
    foreground: Tensor
    limits: Limits
    loss: Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Lawless:
    """Wants huge changes everywhere, whatever it is told."""

    rho: float = 0.2
    region: int | None = None

    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = False
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits,
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        noise: Tensor = 1e9 * torch.randn(x.shape, generator=rng)
        return noise


EVERY_METHOD: dict[str, Callable[[Settings], Method]] = METHODS | {
    "lawless": lambda s: Lawless(rho=s.rho),
    # what labels with a texture get
    "hybrid, texture": lambda s: METHODS["hybrid"](replace(s, place=1)),
}

# These ignore rho: METHODS has no sparse form of them.
WHOLE_FOREGROUND = {"dense", "stable", "patches", "autoregressive", "uniform"}

cases = st.builds(
    Case,
    bits=st.sampled_from([8, 12, 16]),
    signed=st.booleans(),
    spatial=st.sampled_from([(1, 1), (8, 9), (13, 7), (1, 6, 5), (4, 6, 7)]),
    samples=st.integers(1, 3),
    slope=st.sampled_from(SLOPES),
    padding=st.sampled_from(["none", "lowest", "highest", "middle", "middle band"]),
    width=st.sampled_from([1, 6, 40, 100_000]),
    budget=st.sampled_from([1, 2, 3, 7, 40, 300, 40_000]),
    budget_by_slice=st.booleans(),
    share=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    rho=st.sampled_from([0.001, 0.1, 0.2, 0.5, 0.999, 1.0]),
    zero_mean=st.booleans(),
    schedule=st.sampled_from(["round", "step", "once"]),
    eot=st.sampled_from([(), ("shift", "flip", "blur", "half")]),
    block=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)


def problem(case: Case) -> Problem:
    """Return pixels in the middle of what the bits can hold, in the dtype of a file."""
    rng = np.random.default_rng(case.seed)
    low, high = representable(case)
    middle, half = (low + high) // 2, min(case.width, high - low) // 2
    shape = (case.samples, 1, *case.spatial)
    values = rng.integers(middle - half, middle + half + 1, shape)
    padding = {
        "none": None,
        "lowest": (low, low),
        "highest": (high, high),
        "middle": (middle, middle),
        "middle band": (middle - 2, middle + 1),
    }[case.padding]
    is_padding = np.zeros(shape, dtype=bool)
    if padding is not None:
        values[rng.random(shape) < 0.1] = padding[0]
        is_padding = (values >= padding[0]) & (values <= padding[1])
    real = values[~is_padding]
    least, most = (int(real.min()), int(real.max())) if real.size else (0, 0)
    mask = (rng.random(shape) < case.share) & ~is_padding & (values != least) & (values != most)
    kind = f"{'i' if case.signed else 'u'}{1 if case.bits == 8 else 2}"
    return Problem(
        x=torch.from_numpy(values.astype(kind)),
        foreground=torch.from_numpy(mask),
        limits=Limits(budget=budget(case, rng), low=least, high=most, padding=padding),
        loss=conv_loss(case, middle),
    )


def budget(case: Case, rng: np.random.Generator) -> Tensor:
    """Return one number for all, or one for each sample (and slice), up to the case's budget."""
    if not case.budget_by_slice:
        return torch.full((1,) * (len(case.spatial) + 2), float(case.budget))
    shape = (case.samples, 1, *case.spatial[:-2], 1, 1)
    return torch.from_numpy(rng.integers(1, case.budget + 1, shape).astype(np.float32))


def representable(case: Case) -> tuple[int, int]:
    count = 2**case.bits
    return (-count // 2, count // 2 - 1) if case.signed else (0, count - 1)


def conv_loss(case: Case, middle: int) -> Loss:
    """Return a random weighted sum of a random convolutional network over modality values."""
    convolution = nn.Conv2d if len(case.spatial) == 2 else nn.Conv3d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        network = nn.Sequential(convolution(1, 4, 3, padding=1), nn.Tanh(), convolution(4, 1, 1))
        weights = torch.randn(case.samples, 1, *case.spatial)
    network.requires_grad_(False)

    def loss(stored: Tensor) -> Tensor:
        total: Tensor = (weights * network((stored - middle) * case.slope / 50)).sum()
        return total

    return loss


def run(name: str, case: Case, given_problem: Problem | None = None) -> Tensor:
    asked = settings_of(case)
    method, found = EVERY_METHOD[name](asked), given_problem or problem(case)
    x = found.x.float() if method.needs_gradient else found.x
    rng = torch.Generator().manual_seed(case.seed)
    return perturb(
        method, x, found.loss, found.foreground, found.limits, rng, zero_mean=case.zero_mean
    )


def settings_of(case: Case) -> Settings:
    return replace(
        SETTINGS, rho=case.rho, schedule=case.schedule, zero_mean=case.zero_mean, eot=case.eot,
        block=case.block,
    )  # fmt: skip


# A change of +3 that is shrunk to +1 must not end in a padding that lies between.
SHRUNK_INTO_PADDING = Case(
    spatial=(13, 7), padding="middle band", width=6, budget=7, share=1.0, rho=1.0, seed=3
)


@pytest.mark.parametrize("name", EVERY_METHOD)
@settings(max_examples=120)
@example(SHRUNK_INTO_PADDING)
@given(case=cases)
def test_every_method_stays_in_its_budget_its_foreground_its_share_and_the_range(name, case):
    found = problem(case)
    delta = run(name, case, found)
    assert delta.dtype in (torch.int8, torch.int16, torch.int32)
    assert delta.shape == found.x.shape
    change, before = delta.numpy().astype(np.int64), found.x.numpy().astype(np.int64)
    after, mask = before + change, found.foreground.numpy()
    limits = found.limits
    assert (np.abs(change) <= np.broadcast_to(limits.budget.numpy(), change.shape)).all()
    assert not change[~mask].any()
    low, high = representable(case)
    assert (after[mask] >= max(limits.low, low)).all()
    assert (after[mask] <= min(limits.high, high)).all()
    rho = 1.0 if name in WHOLE_FOREGROUND else case.rho
    for one, inside in zip(change, mask, strict=True):
        # written out here, so that a wrong quota is found
        assert np.count_nonzero(one) <= math.ceil(round(rho * inside.sum(), 6))


@pytest.mark.parametrize("name", EVERY_METHOD)
@settings(max_examples=120)
@example(SHRUNK_INTO_PADDING)
@given(case=cases.filter(lambda case: case.padding != "none"))
def test_every_method_leaves_padding_alone_and_makes_none(name, case):
    found = problem(case)
    before = found.x.numpy().astype(np.int64)
    after = before + run(name, case, found).numpy()
    first, last = found.limits.padding
    was, is_now = ((v >= first) & (v <= last) for v in (before, after))
    np.testing.assert_array_equal(was, is_now)


@pytest.mark.parametrize("name", EVERY_METHOD)
@settings(max_examples=60)
@given(case=cases)
def test_the_changes_of_every_slice_add_up_to_zero_if_asked(name, case):
    delta = run(name, replace(case, zero_mean=True))
    assert not delta.to(torch.int64).sum(dim=(-2, -1)).any()


@pytest.mark.parametrize("name", EVERY_METHOD)
@settings(max_examples=25)
@given(case=cases)
def test_equal_generators_give_equal_changes_and_inputs_stay_as_they_are(name, case):
    found = problem(case)
    first = run(name, case, found)
    assert torch.equal(first, run(name, case, found))
    again = problem(case)
    assert torch.equal(found.x, again.x)
    assert torch.equal(found.foreground, again.foreground)
    assert torch.equal(found.limits.budget, again.limits.budget)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("spatial", [(12, 11), (4, 8, 9)])
@pytest.mark.parametrize("name", EVERY_METHOD)
def test_every_method_does_the_same_where_gradients_are_switched_off(name, spatial, mode):
    case = Case(spatial=spatial, samples=2, seed=5)
    given_problem = problem(case)
    wanted = run(name, case, given_problem)
    with mode():
        found = run(name, case, given_problem)
    assert wanted.any()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_every_method_leaves_no_gradient_behind(name):
    assert not run(name, Case()).requires_grad


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_an_empty_foreground_is_left_alone(name):
    assert not run(name, Case(share=0.0)).any()


@pytest.mark.parametrize("name", METHODS)
def test_a_sparse_method_uses_most_of_the_share_it_may(name):
    case = Case(spatial=(40, 40), width=4000, rho=0.2, zero_mean=False, seed=2)
    changed = int(run(name, case).count_nonzero())
    allowed = (1.0 if name in WHOLE_FOREGROUND else case.rho) * int(problem(case).foreground.sum())
    assert changed > 0.75 * allowed


def test_what_a_lawless_method_wants_is_cut_to_the_budget_and_not_thrown_away():
    case = Case(spatial=(40, 40), width=4000, zero_mean=False)
    delta = run("lawless", case)
    assert set(delta.unique().tolist()) == {-6, 0, 6}


@settings(max_examples=40)
@given(case=cases)
def test_salm_of_the_whole_foreground_is_the_dense_control_bit_for_bit(case):
    found = problem(case)
    x = found.x.float()

    def shadow(method: Salm) -> Tensor:
        rng = torch.Generator().manual_seed(case.seed)
        return method(x, found.loss, found.foreground, found.limits, rng)

    assert torch.equal(shadow(Salm(rho=1.0, balanced=False)), shadow(dense()))
    whole = replace(case, rho=1.0, schedule="round")
    assert torch.equal(run("salm", whole, found), run("dense", whole, found))


def toy(seed: int = 0, shape: tuple[int, ...] = (2, 1, 10, 10)) -> tuple[Tensor, Tensor]:
    """Return stored values and weights without ties."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randint(-500, 500, shape, generator=rng).float()
    weights = torch.randperm(x.numel(), generator=rng).float().reshape(shape) - x.numel() / 2 + 0.5
    return x, weights


LIMITS = Limits(budget=torch.full((1, 1, 1, 1), 6.0), low=-1000, high=1000)


@pytest.mark.parametrize("schedule", ["round", "step", "once"])
@pytest.mark.parametrize("balanced", [True, False])
def test_salm_lowers_the_loss_with_every_step_it_is_given(balanced, schedule):
    x, target = toy()
    foreground = torch.ones_like(x, dtype=torch.bool)
    distance = lambda stored: ((stored - target) ** 2).sum()  # noqa: E731
    losses = [float(distance(x))]
    for steps in (1, 2, 4, 8):
        method = Salm(steps=steps, step_size=0.2, balanced=balanced, schedule=schedule)
        rng = torch.Generator().manual_seed(0)
        delta = perturb(method, x, distance, foreground, LIMITS, rng, zero_mean=False)
        losses.append(float(distance(x + delta)))
    assert losses[1] < losses[0]
    assert losses == sorted(losses, reverse=True)


def test_salm_changes_the_voxels_with_the_steepest_gradient_of_each_sample():
    x, weights = toy()
    foreground = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    method = Salm(rho=0.2, balanced=False)
    rng = torch.Generator().manual_seed(0)
    loss = lambda stored: (stored * weights).sum()  # noqa: E731
    delta = perturb(method, x, loss, foreground, LIMITS, rng, zero_mean=False)
    for change, slope, inside in zip(delta, weights, foreground, strict=True):
        count = math.ceil(0.2 * int(inside.sum()))
        steepest = slope.abs()[inside].sort(descending=True).values[:count]
        assert torch.equal(slope.abs()[change != 0].sort(descending=True).values, steepest)
        assert torch.equal(change[change != 0].sign(), -slope[change != 0].sign())
        assert set(change.abs().unique().tolist()) == {0, 6}


def test_balanced_salm_takes_as_many_rising_as_falling_voxels():
    x, weights = toy()
    foreground = torch.ones_like(x, dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    loss = lambda stored: (stored * (weights + 30)).sum()  # noqa: E731
    delta = perturb(Salm(rho=0.2), x, loss, foreground, LIMITS, rng, zero_mean=True)
    for change in delta:
        assert int((change > 0).sum()) == int((change < 0).sum()) == 10


def shadow_of(schedule: str, x: Tensor, loss: Loss, start: Tensor | None = None) -> Tensor:
    method = Salm(rho=0.2, steps=6, step_size=1.0, momentum=0.0, schedule=schedule, balanced=False)
    foreground = torch.ones_like(x, dtype=torch.bool)
    return method(x, loss, foreground, LIMITS, torch.Generator(), start)


def test_schedules_round_and_once_bound_the_voxels_of_a_call_and_step_only_gates_updates():
    x = torch.zeros(1, 1, 10, 10)
    target = torch.linspace(5, 8, 100).reshape(x.shape)
    # what has moved towards its target is no longer salient, so `step` goes on to other voxels
    loss = lambda stored: ((stored - target) ** 2).sum()  # noqa: E731
    changed = {
        schedule: shadow_of(schedule, x, loss).count_nonzero()
        for schedule in ("round", "once", "step")
    }
    assert changed["round"] == changed["once"] == 20
    assert changed["step"] > 20


def test_schedule_once_keeps_the_voxels_of_the_first_call_and_round_chooses_anew():
    x, weights = toy(shape=(1, 1, 10, 10))
    before = lambda stored: (stored * weights).sum()  # noqa: E731
    after = lambda stored: (stored / weights).sum()  # noqa: E731
    kept = {}
    for schedule in ("once", "round", "step"):
        first = shadow_of(schedule, x, before)
        kept[schedule] = first, shadow_of(schedule, x, after, start=first)
    once_first, once_second = kept["once"]
    assert torch.equal(once_first != 0, once_second != 0)
    round_first, round_second = kept["round"]
    assert round_second.count_nonzero() == 20
    assert not ((round_first != 0) & (round_second != 0)).any()
    step_first, step_second = kept["step"]
    assert step_second.count_nonzero() == 40
    assert torch.equal(step_second[step_first != 0], step_first[step_first != 0])


def test_the_low_gradient_control_takes_the_voxels_that_salm_ranks_last():
    x, weights = toy()
    foreground = torch.ones_like(x, dtype=torch.bool)
    loss = lambda stored: (stored * weights).sum()  # noqa: E731
    for name, largest in (("salient", True), ("low_gradient", False)):
        method = Salm(rho=0.2, balanced=False, mask=name)
        delta = method(x, loss, foreground, LIMITS, torch.Generator())
        for change, slope in zip(delta, weights, strict=True):
            count = math.ceil(0.2 * slope.numel())
            wanted = slope.abs().flatten().sort(descending=largest).values[:count]
            assert torch.equal(slope.abs()[change != 0].sort().values, wanted.sort().values)


def test_the_random_mask_follows_the_generator_and_the_sign_of_the_gradient():
    x, weights = toy()
    foreground = torch.ones_like(x, dtype=torch.bool)
    loss = lambda stored: (stored * weights).sum()  # noqa: E731
    method = Salm(rho=0.2, mask="random")

    def found(seed: int) -> Tensor:
        return method(x, loss, foreground, LIMITS, torch.Generator().manual_seed(seed))

    first, other = found(1), found(2)
    assert torch.equal(first, found(1))
    assert not torch.equal(first != 0, other != 0)
    assert first.count_nonzero() == 2 * math.ceil(0.2 * x[0].numel())
    assert torch.equal(first[first != 0].sign(), -weights[first != 0].sign())


@pytest.mark.parametrize("block", [2, 3, 5])
def test_blocks_change_as_one_and_hold_the_share(block):
    x, weights = toy(shape=(2, 1, 30, 30))
    foreground = torch.ones_like(x, dtype=torch.bool)
    loss = lambda stored: (stored * weights).sum()  # noqa: E731
    delta = Salm(rho=0.2, balanced=False, block=block)(
        x, loss, foreground, LIMITS, torch.Generator()
    )
    tiles = delta.unfold(2, block, block).unfold(3, block, block).flatten(4)
    same = (tiles == tiles[..., :1]).all(-1)
    # at most one square of each sample is cut short by the quota
    assert (~same).sum() <= len(x)
    assert 0 < delta[0].count_nonzero() <= math.ceil(0.2 * x[0].numel())


def test_what_can_be_chosen_without_torch_is_what_there_is():
    assert set(EOT) == set(TRANSFORMS)
    light = {name for name, build in METHODS.items() if not build(SETTINGS).uses_torch}
    assert light == set(WITHOUT_TORCH)


@pytest.mark.parametrize("name", EOT)
def test_every_transform_is_drawn_from_the_generator_and_lets_the_gradient_through(name):
    x = toy(shape=(1, 1, 28, 29))[0]
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    loss = lambda stored: (stored * weights).sum()  # noqa: E731

    def seen(seed: int) -> tuple[float, Tensor]:
        leaf = x.clone().requires_grad_(True)
        value = TRANSFORMS[name](loss, torch.Generator().manual_seed(seed))(leaf)
        return float(value.detach()), torch.autograd.grad(value, leaf)[0]

    values = [seen(seed)[0] for seed in range(20)]
    assert len(set(values)) > 1
    assert values == [seen(seed)[0] for seed in range(20)]
    assert all(seen(seed)[1].count_nonzero() > 0.9 * x.numel() for seed in range(5))


def test_optimised_through_blur_a_perturbation_survives_blur_better():
    x, weights = toy(shape=(1, 1, 28, 28))
    foreground = torch.ones_like(x, dtype=torch.bool)
    loss = lambda stored: (stored * weights).sum()  # noqa: E731

    def after_blur(*eot: str) -> float:
        rng = torch.Generator().manual_seed(0)
        method = Salm(rho=1.0, steps=30, momentum=0.9, eot=eot)
        delta = method(x, loss, foreground, LIMITS, rng)
        return float(loss(blur(delta, 1.0)))

    assert after_blur("blur") < after_blur()


@pytest.mark.parametrize("name", ["patches", "texture", "autoregressive"])
@pytest.mark.parametrize("spatial", [(28, 28), (4, 17, 23)])
def test_class_wise_patterns_differ_between_seeds_and_use_the_budget(name, spatial):
    case = Case(spatial=spatial, share=1.0, width=4000, zero_mean=False)
    shadows = []
    for seed in (1, 2):
        found = problem(case)
        rng = torch.Generator().manual_seed(seed)
        method = METHODS[name](SETTINGS)
        shadows.append(method(found.x, found.loss, found.foreground, found.limits, rng))
    first, second = shadows
    assert not torch.equal(first, second)
    assert first.abs().mean() > 0.3 * case.budget * method.rho
    assert first.isfinite().all()


def test_an_autoregressive_voxel_is_a_weighted_sum_of_those_before_it():
    x = torch.zeros(1, 1, 40, 40)
    limits = Limits(budget=torch.full((1, 1, 1, 1), 1e3), low=-1e9, high=1e9)
    rng = torch.Generator().manual_seed(4)
    noise = METHODS["autoregressive"](SETTINGS)(x, torch.sum, x == 0, limits, rng)[0, 0].double()
    windows = noise.unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
    # weights that add up to 1 keep the sum of a mean-shifted process
    weights = torch.linalg.lstsq(windows[:, :8], windows[:, 8:]).solution
    assert (windows[:, :8] @ weights - windows[:, 8:]).abs().max() < 1e-2
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3)


def test_uniform_noise_takes_every_whole_number_within_the_budget_equally_often():
    case = Case(spatial=(100, 100), share=1.0, width=4000, zero_mean=False, budget=3)
    delta = run("uniform", case)[problem(case).foreground]
    counts = torch.bincount(delta.long().flatten() + 3)
    assert len(counts) == 7
    assert counts.min() > 0.85 * counts.max()


def test_a_texture_is_one_connected_square_of_one_repeated_tile():
    case = Case(spatial=(60, 60), share=1.0, width=4000, zero_mean=False)
    found = problem(case)
    whole = torch.ones_like(found.foreground)
    rng = torch.Generator().manual_seed(1)
    delta = METHODS["texture"](SETTINGS)(found.x, found.loss, whole, found.limits, rng)[0, 0]
    rows, columns = delta.nonzero(as_tuple=True)
    assert len(rows) == math.ceil(0.2 * 3600)
    inner = delta[rows.min() + 1 : rows.max(), columns.min() + 1 : columns.max()]
    assert inner.count_nonzero() == inner.numel()
    assert torch.equal(inner[4:, 4:], inner[:-4, :-4])


@pytest.mark.parametrize(
    "changes", [{}, {"region": 3}, {"balanced": False}, {"mask": "random"}, {"schedule": "once"}]
)
@pytest.mark.parametrize("nothing", [{"rho": 0.0}, {"steps": 0}])
def test_without_voxels_and_without_steps_nothing_changes(nothing, changes):
    found = problem(Case(spatial=(12, 12), samples=2))
    x = found.x.float()
    shadow = Salm(**changes | nothing)(
        x, found.loss, found.foreground, found.limits, torch.Generator().manual_seed(1)
    )
    assert not shadow.any()


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("schedule", ["round", "once"])
def test_looking_inside_the_mask_only_gives_what_looking_everywhere_does(schedule, start):
    found = problem(Case(spatial=(16, 15), samples=2, budget_by_slice=True))
    x = found.x.float()
    first = None
    if start:
        lots = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
        first = torch.where(found.foreground & (lots < 0.3), 2.0, 0.0)
    method = Salm(schedule=schedule, region=5, balanced=False, momentum=0.7)
    shadow = method(x, found.loss, found.foreground, found.limits, torch.Generator(), first)
    # written out over all voxels, the mask held from the first step on
    wish = torch.zeros_like(x) if first is None else first.clone()
    mean, mask = torch.zeros_like(x), None
    for _ in range(method.steps):
        mean = 0.7 * mean + gradient(found.loss, x + torch.round(wish))
        if mask is None:
            kept = schedule == "once" and first is not None
            mask = wish != 0 if kept else top_k(mean.abs(), found.foreground, method.rho)
            wish = torch.where(mask, wish, 0.0)
        budget = found.limits.budget
        moved = (wish - method.step_size * budget * mean.sign()).clamp(-budget, budget)
        wish = torch.where(mask, moved, wish)
    assert torch.allclose(shadow, wish)
    assert shadow.any()
