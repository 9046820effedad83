"""Row 9: the grayscale standard display function as colour-science has it; JNDs of a change."""

from __future__ import annotations

from dataclasses import replace

import colour
import numpy as np
import pytest

from salm_dicom.fidelity import Window
from salm_dicom.fidelity.grayscale import jnd_index, jnds_of_display, luminance
from salm_dicom.fidelity.visible import visibility
from tests.subjects import body, changed, pixels


def values(subject) -> dict[str, float]:
    return {f"{one.name} {one.where}".strip(): one.value for one in visibility(subject)}


def test_luminance_and_index_are_those_of_colour_science():
    indices = np.arange(1, 1024).astype(float)
    expected = [colour.models.eotf_DICOMGSDF(index / 1023) for index in indices]
    np.testing.assert_allclose(luminance(indices), expected, rtol=1e-6)
    levels = np.geomspace(0.06, 3900, 200)
    expected = [1023 * colour.models.eotf_inverse_DICOMGSDF(level) for level in levels]
    np.testing.assert_allclose(jnd_index(levels), expected, rtol=1e-6)


def test_the_function_has_the_ends_and_the_inverse_that_the_standard_says():
    # PS3.14 Table B-1: index 1 is 0.05 cd/m2, 1023 is 3993.404
    assert luminance(np.array([1.0, 1023.0])) == pytest.approx([0.05, 3993.404], rel=2e-3)
    indices = np.arange(10.0, 1000.0)
    np.testing.assert_allclose(jnd_index(luminance(indices)), indices, atol=0.5)


def test_a_change_of_the_whole_window_is_every_jnd_of_the_display():
    subject = body(slices=1, noise=0.0)
    stored = np.full(subject.mask.shape, 1000, np.int16)
    flat = replace(
        subject, pixels=pixels(stored), after=stored, mask=np.ones_like(subject.mask),
        windows=(Window(name="one", low=-24, high=76), Window(name="off", low=500, high=600)),
    )  # fmt: skip
    found = values(changed(flat, np.full(stored.shape, 100)))
    whole = jnds_of_display(1.0, 350.0)
    assert found["jnd one window"] == pytest.approx(whole)
    assert found["jnd off window"] == 0.0
    half = values(changed(flat, np.full(stored.shape, 50)))
    assert half["jnd one window"] == pytest.approx(whole / 2)


def test_the_narrower_window_shows_more():
    windows = (Window(name="wide", low=-160, high=240), Window(name="narrow", low=20, high=60))
    subject = replace(body(slices=1), windows=windows)
    found = values(changed(subject, np.full(subject.mask.shape, 3)))
    assert found["jnd narrow window"] == pytest.approx(10 * found["jnd wide window"], rel=0.01)


def test_a_change_stands_beside_the_noise_around_it():
    subject = body(slices=1, size=192, noise=20.0)
    found = values(changed(subject, np.full(subject.mask.shape, 20)))
    # the SD of 25 voxels varies: the 99.9th percentile lies where it is lowest
    assert 1.3 < found["change_to_noise"] < 2.2
    rng = np.random.default_rng(0)
    own = changed(subject, 20 * rng.normal(size=subject.mask.shape))
    assert values(own)["change_to_noise"] == pytest.approx(3.5, abs=0.4)


def test_one_stored_unit_is_the_noise_of_what_is_flat():
    stored = np.full((1, 64, 64), 1000, np.int16)
    subject = body(slices=1, size=64)
    flat = replace(subject, pixels=pixels(stored, slope=2.0), after=stored)
    found = values(changed(flat, np.full(stored.shape, 1)))
    assert found["change_to_noise"] == pytest.approx(np.sqrt(12))
