"""The budget: epsilon in three units, top-k selection, and the one rounding to integers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.errors import PlanError
from salm_dicom.perturb import Epsilon, Limits, quota
from salm_dicom.perturb import to_integers as integers_of_arrays
from salm_dicom.perturb.top_k import top_k


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("4/255", 4 / 255, "fraction"),
        ("0.0157", 0.0157, "fraction"),
        (" 1/2 ", 0.5, "fraction"),
        ("6HU", 6, "modality"),
        ("6 hu", 6, "modality"),
        ("2.5 modality", 2.5, "modality"),
        ("3/2 modality", 1.5, "modality"),
        ("6 stored", 6, "stored"),
        ("12STORED", 12, "stored"),
    ],
)
def test_epsilon_reads_a_fraction_modality_units_and_stored_units(text, amount, unit):
    assert Epsilon.parse(text) == Epsilon(amount, unit)


@pytest.mark.parametrize(
    "text",
    [
        "", "HU", "abc", "-1", "-4/255", "0", "0 HU", "4/0", "4//255", "/255", "1.2.3", ".",
        "6 mm", "4/255 HU stored", "nan", "inf", "6,5 HU", "1 2", "9" * 400 + " HU", "9" * 5000,
    ],
)  # fmt: skip
def test_epsilon_that_is_no_positive_number_is_refused(text):
    with pytest.raises(PlanError, match="is not understood"):
        Epsilon.parse(text)


@pytest.mark.parametrize("text", ["1", "1.0", "255/255", "4"])
def test_a_fraction_of_the_whole_range_or_more_is_refused(text):
    with pytest.raises(PlanError, match="whole intensity range"):
        Epsilon.parse(text)


@pytest.mark.parametrize(
    ("epsilon", "width", "slope", "units"),
    [
        ("4/255", 400, 1.0, 6),
        ("4/255", 400, -1.0, 6),
        ("8/255", 255, 1.0, 8),
        ("4/255", 400, 0.5, 12),
        ("6HU", 400, 1.0, 6),
        ("6HU", 400, 4.0, 1),
        ("6HU", 400, -2.5, 2),
        ("0.3 modality", 1, 0.1, 3),
        ("6 stored", 400, 17.0, 6),
        ("6.9 stored", 400, 1.0, 6),
        ("1 stored", 1e-6, 1e6, 1),
    ],
)
def test_the_budget_in_stored_units_is_rounded_down(epsilon, width, slope, units):
    assert Epsilon.parse(epsilon).stored_units(width, slope) == units


@given(
    numerator=st.integers(1, 254),
    width=st.floats(1, 1e5),
    slope=st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3),
)
def test_a_budget_is_never_more_than_was_asked_and_the_message_names_what_would_do(
    numerator, width, slope
):
    epsilon = Epsilon.parse(f"{numerator}/255")
    exact = numerator / 255 * width / abs(slope)
    try:
        found = epsilon.stored_units(width, slope)
    except PlanError:
        assert exact < 1
    else:
        assert exact - 1 < found <= exact + 1e-6


def test_a_budget_below_one_stored_unit_is_refused_and_the_message_names_the_smallest_epsilon():
    with pytest.raises(PlanError) as refused:
        Epsilon.parse("4/255").stored_units(400, -8.0)
    message = str(refused.value)
    assert "0.784 stored units, less than one" in message
    assert "8 modality units, epsilon 0.02 of the intensity range" in message
    assert Epsilon.parse("0.02").stored_units(400, -8.0) == 1
    assert Epsilon.parse("8 modality").stored_units(400, -8.0) == 1


def to_integers(shadow, x, foreground, limits, **asked) -> torch.Tensor:
    """Call it with tensors."""
    limits = replace(limits, budget=limits.budget.numpy())
    found = integers_of_arrays(shadow.numpy(), x.numpy(), foreground.numpy(), limits, **asked)
    return torch.from_numpy(found)


def scores(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, 1, 1, -1)


def everywhere(score: torch.Tensor) -> torch.Tensor:
    return torch.ones(score.shape, dtype=torch.bool)


def test_top_k_takes_the_highest_scores_of_the_foreground_only():
    score = scores(1, 9, 3, 8, 2)
    inside = torch.tensor([True, False, True, True, True]).reshape(score.shape)
    assert top_k(score, inside, 0.5).reshape(-1).tolist() == [False, False, True, True, False]


def test_ties_go_to_the_lower_index():
    score = scores(5, 7, 5, 5, 5, 7)
    chosen = top_k(score, everywhere(score), 4 / 6)
    assert chosen.reshape(-1).tolist() == [True, True, True, False, False, True]
    equal = torch.full((1, 1, 100, 100), 0.25)
    assert top_k(equal, everywhere(equal), 0.3).reshape(-1).nonzero()[:, 0].tolist() == [
        *range(3000)
    ]


def test_voxels_with_score_zero_are_never_taken():
    score = scores(0, 0, 3, 0, 0)
    chosen = top_k(score, everywhere(score), 1.0)
    assert chosen.reshape(-1).tolist() == [False, False, True, False, False]
    assert not top_k(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4, dtype=torch.bool), 0.5).any()


def test_top_k_gives_each_sample_its_own_share():
    score = torch.stack([torch.full((1, 4, 5), 1.0), torch.full((1, 4, 5), 100.0)])
    inside = everywhere(score)
    inside[1, 0, 2:] = False
    assert top_k(score, inside, 0.5).sum(dim=(1, 2, 3)).tolist() == [10, 5]


@given(seed=st.integers(0, 2**31), rho=st.floats(0.01, 1), levels=st.integers(1, 50))
def test_top_k_agrees_with_a_stable_sort(seed, rho, levels):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels, 60).astype(np.float32)
    inside = rng.random(60) < 0.7
    count = math.ceil(rho * inside.sum() - 1e-9)
    order = [i for i in np.argsort(-score, kind="stable") if inside[i] and score[i] > 0]
    wanted = np.isin(np.arange(60), order[:count])
    shape = (1, 1, 6, 10)
    chosen = top_k(
        torch.from_numpy(score).reshape(shape), torch.from_numpy(inside).reshape(shape), rho
    )
    np.testing.assert_array_equal(chosen.reshape(-1).numpy(), wanted)


@pytest.mark.parametrize(
    ("voxels", "rho", "count"),
    [(100, 0.2, 20), (101, 0.2, 21), (1, 0.01, 1), (0, 0.5, 0), (10, 1.0, 10), (30, 0.1, 3)],
)
def test_the_quota_is_the_share_rounded_up_and_not_up_again_by_floating_point(voxels, rho, count):
    inside = torch.zeros(10, 12, dtype=torch.bool)
    inside.view(-1)[:voxels] = True
    assert quota(inside.numpy(), rho) == count


def rounded(
    shadow: list[float],
    x: list[int] | None = None,
    *,
    budget: float = 6.0,
    low: float = -1000,
    high: float = 1000,
    padding: tuple[int, int] | None = None,
    foreground: list[bool] | None = None,
    rho: float = 1.0,
    zero_mean: bool = False,
) -> list[int]:
    """Return what `to_integers` makes of one row of voxels."""
    shape = (1, 1, 1, len(shadow))
    found = to_integers(
        torch.tensor(shadow).reshape(shape),
        torch.tensor(x or [0] * len(shadow), dtype=torch.int16).reshape(shape),
        torch.tensor(foreground or [True] * len(shadow)).reshape(shape),
        Limits(
            budget=torch.tensor(budget).reshape(1, 1, 1, 1), low=low, high=high, padding=padding
        ),
        rho=rho,
        zero_mean=zero_mean,
    )
    return found.reshape(-1).tolist()


def test_shadows_are_rounded_to_the_nearest_integer_within_the_budget():
    assert rounded([0.4, -0.4, 0.6, -1.7, 5.9, 99.0, -1e9]) == [0, 0, 1, -2, 6, 6, -6]


def test_changes_outside_the_foreground_are_dropped():
    assert rounded([5.0, 5.0], foreground=[False, True]) == [0, 5]


def test_a_change_stops_at_the_ends_of_the_range():
    assert rounded([6.0, -6.0], [998, -997], low=-1000, high=1000) == [2, -3]


def test_a_change_may_jump_over_padding_but_not_end_in_it():
    assert rounded([3.0, 6.0, -2.0, 2.0], [10, 10, 15, 10], padding=(13, 14)) == [0, 6, 0, 2]


def test_of_too_many_changes_the_strongest_wishes_stay():
    assert rounded([1.0, 9.0, -8.0, 2.0], rho=0.5) == [0, 6, -6, 0]
    assert rounded([7.0, 7.0, 7.0, 7.0], rho=0.5) == [6, 6, 0, 0]


def test_a_wish_that_is_rounded_to_nothing_takes_no_share():
    assert rounded([0.3, 0.4, 2.0, 3.0], rho=0.5) == [0, 0, 2, 3]


def test_a_zero_mean_is_reached_by_shrinking_the_weakest_changes_of_the_prevailing_sign():
    assert rounded([6.0, 5.0, 2.0, -4.0], zero_mean=True) == [4, 0, 0, -4]
    assert rounded([-6.0, -5.0, 2.0], zero_mean=True) == [-2, 0, 2]
    assert rounded([3.0, -3.0], zero_mean=True) == [3, -3]
    assert rounded([3.0, 2.0], zero_mean=True) == [0, 0]


@pytest.mark.parametrize(("shadow", "x"), [([6.0, 5.0], [9, 100]), ([5.0, 6.0], [100, 9])])
def test_a_change_that_is_shrunk_for_a_zero_mean_does_not_end_in_padding(shadow, x):
    found = rounded([*shadow, -4.0], [*x, 200], padding=(12, 14), zero_mean=True)
    assert sum(found) == 0
    assert not any(12 <= before + change <= 14 for before, change in zip(x, found, strict=False))


def test_every_slice_of_a_volume_is_balanced_on_its_own():
    shadow = torch.zeros(1, 1, 2, 1, 3)
    shadow[0, 0, 0, 0] = torch.tensor([6.0, 6.0, -6.0])
    shadow[0, 0, 1, 0] = torch.tensor([-6.0, -6.0, 6.0])
    found = to_integers(
        shadow,
        torch.zeros(shadow.shape, dtype=torch.uint8),
        torch.ones(shadow.shape, dtype=torch.bool),
        Limits(budget=torch.full((1, 1, 1, 1, 1), 6.0), low=-9, high=9),
        rho=1.0,
        zero_mean=True,
    )
    assert found.reshape(2, 3).sum(dim=1).tolist() == [0, 0]
    assert found.count_nonzero() == 4


@pytest.mark.parametrize(
    ("budget", "dtype"), [(6, torch.int16), (32767, torch.int16), (32768, torch.int32)]
)
def test_the_integers_are_wide_enough_for_the_budget(budget, dtype):
    found = to_integers(
        torch.full((1, 1, 1, 2), 1e6),
        torch.zeros(1, 1, 1, 2, dtype=torch.int32),
        torch.ones(1, 1, 1, 2, dtype=torch.bool),
        Limits(budget=torch.full((1, 1, 1, 1), float(budget)), low=-1e5, high=1e5),
        rho=1.0,
        zero_mean=False,
    )
    assert found.dtype == dtype
    assert found.reshape(-1).tolist() == [budget, budget]
