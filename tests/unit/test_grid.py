"""Alignment of grids: turns, flips, crops and pads are undone exactly, anything else is refused."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom.errors import MismatchError
from salm_dicom.grid import align

SHAPE = (6, 5, 4)
TURNS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]
# Where a crop or pad begins and how many voxels it leaves; negative begins are pads.
WINDOWS = {
    "whole": [(0, 6), (0, 5), (0, 4)],
    "crop": [(1, 3), (2, 3), (0, 2)],
    "pad": [(-2, 10), (-1, 7), (-3, 9)],
    "crop and pad": [(-2, 5), (2, 6), (1, 3)],
    "one voxel": [(5, 1), (4, 1), (3, 1)],
}


def oblique() -> np.ndarray:
    """Return an affine with three spacings and an orientation along no axis."""
    turn, _ = np.linalg.qr(np.random.default_rng(4).standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.9, 2.5]
    affine[:3, 3] = [-120.3, 88.1, 1043.7]
    return affine


HOME = oblique()
VALUES = np.arange(1, 121, dtype=np.float32).reshape(SHAPE)


def moved(window, axes, signs):
    """Return home values cut to a window, then turned, with the affine that says so."""
    index = [np.arange(first, first + count) for first, count in window]
    covered = [(i >= 0) & (i < n) for i, n in zip(index, SHAPE, strict=True)]
    values = np.full([len(i) for i in index], -7.0, np.float32)
    values[np.ix_(*covered)] = VALUES[np.ix_(*[i[c] for i, c in zip(index, covered, strict=True)])]
    step = np.eye(4)
    step[:3, 3] = [first for first, _ in window]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    values = values.transpose(axes)
    for axis, (source, sign) in enumerate(zip(axes, signs, strict=True)):
        turn[source, axis] = sign
        if sign < 0:
            values = np.flip(values, axis)
            turn[source, 3] = values.shape[axis] - 1
    return values, HOME @ step @ turn


def at_home(window) -> np.ndarray:
    """Return home values where a window covers them, else NaN."""
    found = np.full(SHAPE, np.nan, np.float32)
    inside = tuple(
        slice(max(first, 0), min(first + count, n))
        for (first, count), n in zip(window, SHAPE, strict=True)
    )
    found[inside] = VALUES[inside]
    return found


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("precision", [np.float64, np.float32])
def test_every_turn_and_flip_of_a_crop_or_pad_is_undone_exactly(window, precision):
    for axes, signs in TURNS:
        values, affine = moved(WINDOWS[window], axes, signs)
        back = align(values, affine.astype(precision), SHAPE, HOME)
        np.testing.assert_array_equal(back, at_home(WINDOWS[window]), err_msg=f"{axes} {signs}")


windows = st.tuples(
    *[
        st.integers(-4, size - 1).flatmap(
            lambda first: st.tuples(st.just(first), st.integers(max(1, 1 - first), 12))
        )
        for size in SHAPE
    ]
)


@settings(max_examples=150)
@given(turn=st.sampled_from(TURNS), window=windows)
def test_any_window_is_put_back_where_it_came_from(turn, window):
    values, affine = moved(window, *turn)
    np.testing.assert_array_equal(align(values, affine, SHAPE, HOME), at_home(window))


def test_an_image_that_never_moved_is_returned_as_it_is():
    assert align(VALUES, HOME.astype(np.float32), SHAPE, HOME) is VALUES


def test_what_the_image_does_not_cover_is_nan_and_nothing_else_is():
    window = WINDOWS["crop"]
    back = align(*moved(window, (0, 1, 2), (1, 1, 1)), SHAPE, HOME)
    assert np.count_nonzero(~np.isnan(back)) == 3 * 3 * 2


@pytest.mark.parametrize("turn", TURNS[::7])
@pytest.mark.parametrize(
    "scale", [(1.1, 1, 1), (1, 1, 0.5), (2, 2, 2), (1, 1.01, 1), (1, 1, 1.002)]
)
def test_a_resampled_grid_is_refused(turn, scale):
    values, affine = moved(WINDOWS["whole"], *turn)
    with pytest.raises(MismatchError, match="resampled"):
        align(values, affine @ np.diag([*scale, 1]), SHAPE, HOME)


@pytest.mark.parametrize("degrees", [1, 10, 45, 80])
@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_a_grid_turned_by_less_than_a_quarter_is_refused(plane, degrees):
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(4)
    a, b = plane
    turn[a, a] = turn[b, b] = cosine
    turn[a, b], turn[b, a] = -sine, sine
    with pytest.raises(MismatchError, match="turned by less than 90 degrees"):
        align(VALUES, HOME @ turn, SHAPE, HOME)


def test_a_sheared_grid_is_refused():
    shear = np.eye(4)
    shear[0, 2] = 0.2
    with pytest.raises(MismatchError):
        align(VALUES, HOME @ shear, SHAPE, HOME)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [0.5, -0.5, 0.25, 1.5])
def test_a_grid_shifted_by_part_of_a_voxel_is_refused(axis, shift):
    step = np.eye(4)
    step[axis, 3] = shift
    with pytest.raises(MismatchError, match="part of a voxel"):
        align(VALUES, HOME @ step, SHAPE, HOME)


@pytest.mark.parametrize("shift", [6, -6, 1000])
def test_an_image_that_does_not_overlap_its_source_is_refused(shift):
    step = np.eye(4)
    step[0, 3] = shift
    with pytest.raises(MismatchError, match="do not overlap"):
        align(VALUES, HOME @ step, SHAPE, HOME)


def test_the_image_and_its_affine_are_not_changed():
    values, affine = moved(WINDOWS["crop and pad"], (2, 0, 1), (-1, 1, -1))
    values_before, affine_before = values.copy(), affine.copy()
    align(values, affine, SHAPE, HOME)
    np.testing.assert_array_equal(values, values_before)
    np.testing.assert_array_equal(affine, affine_before)
