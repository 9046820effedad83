"""Row 12: the channelised Hotelling observer, against closed forms and against drawn images."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.observer import auc, detectability, disc, laguerre_gauss, observer
from tests.subjects import body, changed

SPACING = (1.0, 1.0)


def moved(subject) -> float:
    (found,) = observer(subject)
    return found.value


def expected(ratio: float) -> float:
    """Return how far the AUC moves from 0.85 when detectability is multiplied."""
    normal = NormalDist()
    return abs(normal.cdf(ratio * normal.inv_cdf(0.85)) - 0.85)


def test_detectability_in_white_noise_is_the_matched_filters_through_the_channels():
    rng = np.random.default_rng(0)
    channels = laguerre_gauss(16, 16, SPACING)
    signal = channels @ disc(16, 16, SPACING).ravel()
    noise = rng.normal(0, 3.0, (40_000, 256))
    found = detectability(noise @ channels.T, signal)
    ideal = np.sqrt(signal @ np.linalg.solve(9 * channels @ channels.T, signal))
    assert found == pytest.approx(ideal, rel=0.02)
    # the channels lose little of what an observer without channels would see
    whole = np.linalg.norm(disc(16, 16, SPACING)) / 3
    assert 0.9 * whole < found < 1.02 * whole


def test_the_auc_is_that_of_images_that_are_drawn_with_and_without_the_disc():
    rng = np.random.default_rng(1)
    channels = laguerre_gauss(16, 16, SPACING)
    image = 1.2 * disc(16, 16, SPACING).ravel()
    signal = channels @ image
    without = rng.normal(0, 4.0, (4000, 256))
    present = rng.normal(0, 4.0, (4000, 256)) + image
    responses = without @ channels.T
    template = np.linalg.solve(np.cov(responses, rowvar=False), signal)
    scores, others = responses @ template, present @ channels.T @ template
    counted = np.mean(others[:, None] > scores[None, :])
    assert auc(detectability(responses, signal)) == pytest.approx(counted, abs=0.015)


def test_white_noise_that_is_added_takes_what_the_closed_form_says():
    subject = body(slices=4, size=256, noise=20.0)
    rng = np.random.default_rng(9)
    assert moved(subject) == pytest.approx(0, abs=1e-12)
    for share in (0.3, 0.6):
        found = moved(changed(subject, 20 * share * rng.normal(size=subject.mask.shape)))
        assert found == pytest.approx(expected(1 / np.hypot(1, share)), abs=0.02)


def test_noise_as_coarse_as_the_disc_hides_it_better_than_white_noise_of_the_same_power():
    subject = body(slices=4, size=256, noise=20.0)
    rng = np.random.default_rng(9)
    coarse = np.kron(rng.normal(size=(4, 64, 64)), np.ones((4, 4)))
    white = rng.normal(size=subject.mask.shape)
    assert moved(changed(subject, 10 * coarse)) > 2 * moved(changed(subject, 10 * white))


def test_too_few_patches_say_nothing():
    with pytest.raises(Unmeasurable, match=r"patches of 16 mm .* 60 are needed"):
        list(observer(body(slices=1)))
    subject = body(slices=1)
    with pytest.raises(Unmeasurable):
        list(observer(replace(subject, mask=np.zeros_like(subject.mask))))
