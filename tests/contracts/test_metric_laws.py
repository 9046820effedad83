"""The contract of every row of METRICS: names, units, identity, and growth with the change."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity import (
    DEFAULT_ROWS,
    MEASURES,
    METRICS,
    ROWS,
    Limits,
    Subject,
    checks,
    measure,
)
from tests.subjects import body, changed, region, square

SEVERITY = {True: -1, False: 1}
# What chance and steps may take back on the way: AUC, percent of features.
SLACK = {"observer": 0.005, "radiomics": 10}


def phantom(modality: str = "CT", **other: object) -> Subject:
    """Return a body with one lesion that stands out, in the windows of its modality."""
    subject = body(size=192, slices=2)
    lesion = square(subject, 16, (96, 96), 0)
    stored = (subject.pixels.values + 160 * lesion).astype(np.int16)
    profile = Limits().profile(modality)
    return replace(
        subject,
        pixels=replace(subject.pixels, values=stored),
        after=stored,
        modality=modality,
        regions=(region("lesion", lesion),),
        windows=profile.windows,
        ratio=profile.ratio,
        model=bright,
        **other,
    )


def bright(values: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Segment what is brighter than 120 HU."""
    return (values > 120).astype(np.int64)


def noisy(subject: Subject, size: float, seed: int = 1) -> Subject:
    rng = np.random.default_rng(seed)
    return changed(subject, size * rng.normal(size=subject.mask.shape))


def read(name: str, subject: Subject) -> dict[tuple[str, str], float]:
    return {(one.name, one.where): one.value for one in METRICS[name].measure(subject)}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT", "DX", "US"])
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_yields_known_names_of_its_rows_in_their_units(name, modality):
    metric = METRICS[name]
    found = list(metric.measure(noisy(phantom(modality), 4)))
    assert found
    for one in found:
        assert MEASURES[one.name].row in metric.rows
        assert one.unit in MEASURES[one.name].units()
        assert np.isfinite(one.value)
    assert len({(one.name, one.where) for one in found}) == len(found)
    checks(found, Limits().profile(modality))  # no limit is in another unit


@pytest.mark.parametrize("name", METRICS)
def test_nothing_is_lost_where_nothing_changed(name):
    profile = Limits().profile("CT")
    found = list(METRICS[name].measure(phantom()))
    judged = checks(found, profile)
    assert not any(one.is_missed or not one.is_wanted for one in judged), judged
    for one in found:
        if "margin" in one.name:
            assert one.value >= 0
        elif MEASURES[one.name].is_floor and one.unit == "%":
            assert one.value == 100
        elif MEASURES[one.name].is_floor:
            assert one.value == pytest.approx(1.0, abs=1e-5) or np.isinf(one.value)
        else:
            assert one.value == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_larger_change_is_never_better(name):
    readings = [read(name, noisy(phantom(), size)) for size in (2, 4, 8, 16, 32)]
    for key in readings[0]:
        sign = SEVERITY[MEASURES[key[0]].is_floor]
        harms = [sign * one[key] for one in readings]
        for less, more in pairwise(harms):
            assert more >= less - SLACK.get(name, 0), (key, harms)
        assert harms[-1] > harms[0], key


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_the_same_twice(name):
    subject = noisy(phantom(), 4)
    assert read(name, subject) == read(name, subject)


@pytest.mark.parametrize("name", METRICS)
def test_an_image_without_foreground_gives_a_reason_and_no_number(name):
    subject = phantom()
    empty = replace(subject, mask=np.zeros_like(subject.mask), regions=())
    with pytest.raises(Unmeasurable, match=r"\w+ \w+"):
        list(METRICS[name].measure(empty))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 200), (2, 40, 7)])
def test_an_image_of_any_size_is_measured_or_refused_with_a_reason(name, shape):
    subject = body(slices=shape[0], size=256)
    cut = (slice(None), slice(100, 100 + shape[1]), slice(40, 40 + shape[2]))
    stored = subject.pixels.values[cut]
    small = replace(
        subject,
        pixels=replace(subject.pixels, values=stored),
        after=stored + np.int16(3),
        mask=np.ones(shape, dtype=bool),
    )
    try:
        found = list(METRICS[name].measure(small))
    except Unmeasurable:
        return
    assert found
    assert all(np.isfinite(one.value) for one in found)


def test_every_row_of_the_default_is_measured_by_a_metric_or_by_the_check_of_files():
    rows = {row for one in METRICS.values() for row in one.rows}
    assert rows | {1, 2} >= DEFAULT_ROWS
    assert rows <= ROWS.keys()


def test_rows_that_nobody_asked_for_are_not_measured():
    subject = noisy(phantom(), 4)
    names = {one.name for one in measure(subject, rows={4}).readings}
    assert names == {"psnr", "ssim", "noise_sd"}
    assert measure(replace(subject, regions=()), rows={6}).unmeasured == ()
    bare = replace(subject, mask=subject.mask & square(subject, 3, (96, 96)), regions=())
    (found,) = measure(bare, rows={4}).unmeasured
    assert found == (4, "fewer than 4 squares of 8 mm are foreground only")
