"""What metrics share, against the plain way to say it: differences, squares, tissues, sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.difference import difference, spread
from salm_dicom.fidelity.gaussian import Gaussian, means
from salm_dicom.fidelity.shifts import _largest_mean
from salm_dicom.fidelity.sliding import kind_for, sliding_sums
from salm_dicom.fidelity.squares import tiled
from salm_dicom.fidelity.tissues import reached, reaches
from tests.subjects import body, changed, pixels

TYPES = (np.uint8, np.int8, np.uint16, np.int16, np.int32)


@given(st.data())
def test_a_difference_is_exact_for_every_type_and_value(data):
    kind = data.draw(st.sampled_from(TYPES))
    least, most = np.iinfo(kind).min, np.iinfo(kind).max
    value = st.integers(int(least), int(most))
    before, after = (np.array([data.draw(value)], dtype=kind) for _ in range(2))
    exact = int(after[0]) - int(before[0])
    assert difference(before, after).tolist() == [exact]
    assert spread(before, after) == abs(exact)


@pytest.mark.parametrize("slope", [1.0, -0.7, 0.01])
def test_stored_values_reach_an_edge_where_their_modality_values_do(slope):
    stored = np.arange(-300, 300, dtype=np.int16).reshape(1, 20, 30)
    subject = body(size=16, pixels=pixels(stored, slope, 3.5), after=stored)
    values = subject.source_at(0)
    edges = np.array([values.min() - 1, values[3, 4], 0.0, values.max() + 1])
    for edge, found in zip(edges, reached(subject, 0, edges), strict=True):
        assert np.array_equal(reaches(stored[0], found), values >= edge)


def test_squares_have_the_mean_and_variance_of_their_voxels():
    found = body(noise=30)
    found = changed(found, np.random.default_rng(1).normal(0, 9, found.mask.shape))
    squares = found.squares
    for index in range(len(found)):
        here = squares.taken(squares.index == index)
        full = tiled(found.mask[index][found.box], 8, 8).all(axis=1)
        for at, mean, variance in (
            (found.source_at, here.mean, here.variance),
            (found.protected_at, here.mean_after, here.variance_after),
        ):
            voxels = tiled(at(index, found.box), 8, 8)[full].astype(float)
            assert mean == pytest.approx(voxels.mean(axis=1), rel=1e-9)
            assert variance == pytest.approx(voxels.var(axis=1), rel=1e-9)


@pytest.mark.parametrize("sides", [[1, 1], [3, 5], [9, 16], [30, 40]])
def test_a_window_has_the_sum_of_its_cells_and_ends_at_the_edge(sides):
    values = np.random.default_rng(0).integers(-9, 9, (25, 33)).astype(np.int16)
    found = sliding_sums(values, *sides)
    steps = [max(1, side // 8) for side in sides]
    for row in range(0, 25, steps[0]):
        for column in range(0, 33, steps[1]):
            top, left = row - sides[0] // 2, column - sides[1] // 2
            cells = values[max(top, 0) : top + sides[0], max(left, 0) : left + sides[1]]
            assert found[row // steps[0], column // steps[1]] == cells.sum()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-40, 40)), min_size=1), st.integers(1, 9))
def test_the_largest_mean_is_that_of_no_other_window(windows, least):
    counts, sums = (np.array([part], np.int16) for part in zip(*windows, strict=True))
    plain = [abs(total) / count for count, total in windows if count >= least]
    found = _largest_mean([counts, sums], least, 0.5)
    assert found == pytest.approx(0.5 * max(plain, default=0))


def test_windows_over_nothing_have_no_sum():
    assert not sliding_sums(np.zeros((0, 0), np.int16), 7, 7).size


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("shape", [(17, 17), (40, 700), (1100, 90), (530, 530)])
def test_gaussian_means_are_those_of_every_window(shape, step):
    image = np.random.default_rng(2).random(shape, dtype=np.float32)
    places = np.arange(17) - 8
    weights = np.exp(-(places**2) / (2 * 3.4**2))
    windows = np.lib.stride_tricks.sliding_window_view(image, (17, 17))[::step, ::step]
    kernel = weights / weights.sum()
    plain = np.einsum("ijkl,k,l->ij", windows, kernel, kernel, optimize=True)
    for one in (image, np.asfortranarray(image)):
        found = means(one, Gaussian(17, 3.4), step)
        assert found.shape == plain.shape
        assert found == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(
    ("most", "kind"),
    [(0, np.int16), (32_767, np.int16), (32_768, np.int32), (1 << 31, np.int64)],
)
def test_sums_get_a_type_that_holds_them_and_their_size(most, kind):
    assert kind_for(most) == kind
    assert np.abs(np.array([-most], dtype=kind_for(most)))[0] == most
