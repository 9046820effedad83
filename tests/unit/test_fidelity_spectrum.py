"""Row 5: the noise power spectrum, in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.spectrum import _spectrum, flat, spectrum
from tests.subjects import body, changed


def values(subject) -> dict[str, float]:
    return {one.name: one.value for one in spectrum(subject)}


def test_the_integral_is_the_variance_whatever_the_voxels():
    squares = np.random.default_rng(0).normal(0, 7, (50, 24, 16))
    for spacing in ((1.0, 1.0), (0.4, 2.5)):
        integral, _ = _spectrum(squares, spacing)
        assert integral == pytest.approx(np.square(squares).mean())


def test_a_wave_has_its_frequency():
    x = np.arange(32) * 0.5
    wave = np.broadcast_to(np.sin(2 * np.pi * 0.25 * x), (3, 32, 32))
    integral, frequency = _spectrum(wave, (0.5, 0.5))
    assert (integral, frequency) == (pytest.approx(0.5), pytest.approx(0.25))


def test_white_noise_has_the_mean_frequency_of_the_whole_plane():
    squares = np.random.default_rng(0).normal(size=(400, 32, 32))
    f = np.fft.fftfreq(32)
    assert _spectrum(squares, (1, 1))[1] == pytest.approx(np.hypot(f[:, None], f).mean(), rel=0.01)


def test_a_slope_is_no_noise():
    y, x = np.mgrid[0:16, 0:20]
    slope = np.broadcast_to(100 + 3 * x - 7 * y, (2, 16, 20)).astype(np.float32)
    assert np.abs(flat(slope)).max() < 1e-4


def test_noise_that_is_added_adds_to_the_power():
    subject = body(size=256, noise=20.0, slices=1)
    white = np.random.default_rng(3).normal(size=subject.mask.shape)
    found = values(changed(subject, 20 * 0.3 * white))
    assert found["nps_integral"] == pytest.approx(9, abs=2)
    assert found["nps_frequency"] < 1


def test_a_pattern_moves_the_mean_frequency_and_white_noise_of_the_same_power_does_not():
    subject = body(size=256, noise=20.0, slices=1)
    coarse = np.sin(2 * np.pi * np.arange(256) / 16)
    fine = np.resize([1.0, 1.0, -2.0], 256) / np.sqrt(2)
    power = {}
    for name, wave in (("coarse", coarse * np.sqrt(2)), ("fine", fine)):
        power[name] = values(changed(subject, 12 * wave[None, None, :]))
    white = values(changed(subject, 12 * np.random.default_rng(3).normal(size=(1, 256, 256))))
    assert power["coarse"]["nps_frequency"] > 5 > 2 * white["nps_frequency"]
    assert power["fine"]["nps_integral"] == pytest.approx(36, abs=5)


def test_an_image_without_enough_squares_is_not_measured():
    with pytest.raises(Unmeasurable, match="no slice has 4 squares of 16 mm"):
        list(spectrum(body(size=32)))
    subject = body(size=128)
    with pytest.raises(Unmeasurable, match="no slice"):
        list(spectrum(replace(subject, mask=np.zeros_like(subject.mask))))
