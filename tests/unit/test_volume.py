"""Stored pixels: what is valid, exact modality values and back, and changes that are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom.errors import BadValue, MismatchError
from salm_dicom.volume import StoredPixels
from tests.unit.volumes import stored

KINDS = {
    (8, False): "u1", (8, True): "i1", (12, False): "u2", (12, True): "i2",
    (16, False): "u2", (16, True): "i2",
}  # fmt: skip
kinds = st.sampled_from(sorted(KINDS))
signs = st.sampled_from([1.0, -1.0])
slopes = st.builds(
    lambda sign, size: sign * size,
    signs,
    st.one_of(
        st.sampled_from([1.0, 0.5, 2.0, 8.0, 0.1, 1 / 3, 0.000244140625, 1234.5]),
        st.floats(1e-4, 1e4),
    ),
)


def every_value(bits: int, signed: bool, **mapping: float) -> StoredPixels:
    """Return one slice that holds every stored value there is, once."""
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.arange(low, low + 2**bits).astype(KINDS[bits, signed])
    side = 2 ** (bits // 2)
    return stored(values.reshape(1, side, side), bits_stored=bits, **mapping)


def lawful_delta(pixels: StoredPixels, seed: int, most: int) -> np.ndarray:
    """Return random changes that leave every value inside what its bits can hold."""
    rng = np.random.default_rng(seed)
    before = pixels.values.astype(np.int64)
    after = before + rng.integers(-most, most + 1, before.shape)
    return (np.clip(after, *pixels.representable) - before).astype(np.int32)


@pytest.mark.parametrize(
    "broken",
    [
        {"values": np.zeros((4, 5), np.int16)},
        {"values": np.zeros((1, 2, 4, 5), np.int16)},
        {"values": np.zeros((2, 4, 5), np.float32)},
        {"values": np.zeros((2, 4, 5), bool)},
        {"slope": np.ones(1)},
        {"slope": np.ones((2, 1))},
        {"intercept": np.zeros(3)},
        {"slope": np.array([1.0, np.nan])},
        {"slope": np.array([1.0, np.inf])},
        {"intercept": np.array([0.0, np.nan])},
        {"slope": np.array([1.0, 0.0])},
    ],
    ids=repr,
)
def test_pixels_that_cannot_be_understood_are_refused(broken):
    pixels = stored(np.zeros((2, 4, 5), np.int16))
    with pytest.raises(BadValue):
        replace(pixels, **broken)


@pytest.mark.parametrize(
    ("bits", "signed", "ends"),
    [
        (8, False, (0, 255)), (8, True, (-128, 127)), (12, False, (0, 4095)),
        (12, True, (-2048, 2047)), (16, False, (0, 65535)), (16, True, (-32768, 32767)),
        (1, False, (0, 1)),
    ],
)  # fmt: skip
def test_bits_stored_and_sign_say_what_can_be_written(bits, signed, ends):
    values = np.zeros((1, 1, 1), np.int16 if signed else np.uint16)
    assert stored(values, bits_stored=bits).representable == ends


def test_padding_is_a_range_with_both_ends():
    pixels = stored(np.array([[[1, 2, 3, 4, 5]]], np.int16), padding=(2, 4))
    assert pixels.is_padding().tolist() == [[[False, True, True, True, False]]]
    assert not replace(pixels, padding=None).is_padding().any()


def test_extremes_leave_padding_out_even_in_the_middle_of_the_range():
    values = np.array([[[-2000, 10, 7]], [[0, 500, 3071]]], np.int16)
    assert stored(values).extremes() == (-2000, 3071)
    assert stored(values, padding=(-2000, -2000)).extremes() == (0, 3071)
    assert stored(values, padding=(7, 500)).extremes() == (-2000, 3071)
    assert stored(values, padding=(-5000, 5000)).extremes() == (0, 0)


def test_a_slice_of_the_stack_keeps_its_own_mapping():
    pixels = replace(
        stored(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        slope=np.array([1.0, 2.0]),
        intercept=np.array([0.0, 5.0]),
    )
    second = pixels.at(1)
    assert second.values.shape == (1, 3, 4)
    np.testing.assert_array_equal(second.modality_values()[0], pixels.modality_values()[1])
    np.testing.assert_array_equal(second.modality_values()[0], 2 * pixels.values[1] + 5)


@settings(max_examples=60)
@given(kind=kinds, slope=slopes, offset=st.floats(-65536, 65536), seed=st.integers(0, 2**31))
def test_modality_values_lead_back_to_every_stored_value_and_every_change(
    kind, slope, offset, seed
):
    pixels = every_value(*kind, slope=slope, intercept=offset * abs(slope))
    assert pixels.modality_values().dtype == np.float32
    assert not pixels.delta_to(pixels.modality_values()).any()
    delta = lawful_delta(pixels, seed, most=300)
    after = pixels.shifted(delta)
    np.testing.assert_array_equal(pixels.delta_to(after.modality_values()), delta)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("intercept", [-1024.0, -8192.0, 0.5, 0.0])
def test_hounsfield_units_lead_back_to_every_stored_value(kind, intercept):
    pixels = every_value(*kind, intercept=intercept)
    np.testing.assert_array_equal(
        pixels.modality_values(), pixels.values.astype(np.float64) + intercept
    )
    assert not pixels.delta_to(pixels.modality_values()).any()


@settings(max_examples=100)
@given(
    value=st.integers(0, 4095),
    slope=st.sampled_from([1.0, 0.5, 1e-2, 1e-3]),
    intercept=st.sampled_from([1e3, 1e5, 1e6, 1e7, -1e8, 0.1]),
)
def test_a_mapping_too_fine_for_float32_is_refused_and_never_wrong(value, slope, intercept):
    pixels = stored(np.array([[[value]]], np.uint16), slope=slope, intercept=intercept)
    try:
        delta = pixels.delta_to(pixels.modality_values())
    except MismatchError:
        return
    assert not delta.any()


def test_slices_with_different_mappings_lead_back_exactly():
    rng = np.random.default_rng(0)
    pixels = replace(
        stored(rng.integers(0, 4096, (3, 8, 8)).astype(np.uint16), bits_stored=12),
        slope=np.array([1.0, 0.37, -2.5]),
        intercept=np.array([-1024.0, 0.0, 100.5]),
    )
    delta = lawful_delta(pixels, 1, most=9)
    after = pixels.shifted(delta).modality_values()
    np.testing.assert_array_equal(pixels.delta_to(after), delta)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (0.37, 3.3), (-2.0, 0.0)])
@pytest.mark.parametrize("off", [0.3, 0.5, -0.4, 100.45])
def test_a_single_value_off_the_grid_is_refused(slope, intercept, off):
    pixels = every_value(12, True, slope=slope, intercept=intercept)
    values = pixels.modality_values()
    values[0, 3, 4] += np.float32(off * slope)
    with pytest.raises(MismatchError, match="off the source's grid"):
        pixels.delta_to(values)


@pytest.mark.parametrize("spoil", [lambda v: v * 1.01, lambda v: v / 3, lambda v: np.cbrt(v)])
def test_scaled_values_are_refused(spoil):
    pixels = every_value(12, True)
    with pytest.raises(MismatchError):
        pixels.delta_to(spoil(pixels.modality_values()).astype(np.float32))


@pytest.mark.parametrize("endless", [np.inf, -np.inf])
def test_infinite_values_are_refused(endless):
    pixels = every_value(8, False)
    values = pixels.modality_values()
    values[0, 0, 0] = endless
    with np.errstate(invalid="ignore"), pytest.raises(MismatchError):
        pixels.delta_to(values)


def test_what_the_image_does_not_cover_stays_as_it_is():
    pixels = every_value(12, True, slope=0.5, intercept=1.0)
    values = pixels.shifted(np.ones(pixels.values.shape, np.int32) * (pixels.values < 2047))
    covered = values.modality_values()
    covered[:, 10:] = np.nan
    delta = pixels.delta_to(covered)
    assert (delta[:, :10] == 1).all()
    assert not delta[:, 10:].any()


def test_the_modality_values_that_were_given_are_not_changed():
    pixels = every_value(8, True, intercept=-3.0)
    values = pixels.modality_values()
    before = values.copy()
    pixels.delta_to(values)
    np.testing.assert_array_equal(values, before)


@settings(max_examples=60)
@given(kind=kinds, seed=st.integers(0, 2**31), most=st.sampled_from([1, 6, 127, 128, 300, 70000]))
def test_subtracting_the_change_gives_every_stored_value_back(kind, seed, most):
    source = every_value(*kind)
    delta = lawful_delta(source, seed, most)
    protected = source.shifted(delta)
    np.testing.assert_array_equal(protected.values.astype(np.int64) - delta, source.values)
    assert protected.values.dtype == source.values.dtype
    np.testing.assert_array_equal(protected.shifted(-delta).values, source.values)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_integer_type_of_a_change_makes_no_difference(kind, dtype):
    source = every_value(*kind)
    delta = lawful_delta(source, 3, most=100).astype(dtype)
    after = source.values.astype(np.int64) + delta
    np.testing.assert_array_equal(source.shifted(delta).values, after)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_value_that_would_leave_the_bits_is_refused(kind):
    source = every_value(*kind)
    for place, step in ((0, -1), (-1, 1), (0, -70000), (-1, 70000)):
        delta = np.zeros(source.values.shape, np.int32)
        delta.reshape(-1)[place] = step
        with pytest.raises(MismatchError, match="would leave"):
            source.shifted(delta)


def test_a_value_beyond_its_bits_may_stay_but_not_be_changed():
    source = stored(np.array([[[5000, 100]]], np.int16), bits_stored=12)
    assert source.shifted(np.array([[[0, 5]]])).values.tolist() == [[[5000, 105]]]
    with pytest.raises(MismatchError, match="would leave"):
        source.shifted(np.array([[[1, 0]]]))


@pytest.mark.parametrize(
    ("before", "change"), [(10, 2), (10, 4), (20, -6), (12, 1), (12, -5), (14, 100)]
)
def test_padding_that_would_appear_or_vanish_is_refused(before, change):
    source = stored(np.array([[[before, 500]]], np.int16), padding=(12, 14))
    with pytest.raises(MismatchError, match="padding appear or vanish"):
        source.shifted(np.array([[[change, 0]]]))


def test_padding_may_stay_and_a_change_may_jump_over_it():
    source = stored(np.array([[[10, 12, 13]]], np.int16), padding=(12, 14))
    assert source.shifted(np.array([[[6, 0, 0]]])).values.tolist() == [[[16, 12, 13]]]


@pytest.mark.parametrize(
    "delta", [np.zeros((1, 2, 3), np.float32), np.zeros((1, 3, 2), np.int32), np.zeros((2, 3), int)]
)
def test_a_change_of_another_shape_or_kind_is_refused(delta):
    with pytest.raises(MismatchError, match="are needed"):
        stored(np.zeros((1, 2, 3), np.int16)).shifted(delta)


def test_a_change_leaves_the_source_untouched():
    source = every_value(8, False)
    before = source.values.copy()
    source.shifted(np.where(source.values < 200, 3, 0))
    np.testing.assert_array_equal(source.values, before)
