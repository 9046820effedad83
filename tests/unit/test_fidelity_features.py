"""Row 11: radiomics by MIRP, held to the digital phantom of the IBSI."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.features import features, radiomics
from tests.subjects import body, changed, region, square

# Image Biomarker Standardisation Initiative, reference manual, 5.1: 0 is outside the region.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [0, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    dtype=np.float32,
)
# The manual's reference values of intensity-based statistics, 3.3.
REFERENCE = {
    "stat_mean": 2.15, "stat_var": 3.05, "stat_skew": 1.08, "stat_kurt": -0.355, "stat_median": 1,
    "stat_min": 1, "stat_p10": 1, "stat_p90": 4, "stat_max": 6, "stat_iqr": 3, "stat_range": 5,
    "stat_mad": 1.55, "stat_rmad": 1.11, "stat_medad": 1.15, "stat_cov": 0.812, "stat_qcod": 0.6,
    "stat_energy": 567, "stat_rms": 2.77,
}  # fmt: skip


def values(subject) -> dict[tuple[str, str], float]:
    return {(one.name, one.where): one.value for one in radiomics(subject)}


def test_first_order_features_of_the_digital_phantom_are_those_of_the_ibsi():
    assert (np.count_nonzero(PHANTOM), PHANTOM.sum()) == (74, 159)
    found = features(PHANTOM, PHANTOM > 0, "MR", ("statistics",))
    assert found.keys() == REFERENCE.keys()
    for name, value in REFERENCE.items():
        assert found[name] == pytest.approx(value, rel=5e-3), name


def test_a_shift_moves_the_features_of_values_and_leaves_those_of_texture():
    subject = body(slices=3, size=64, modality="MR", intensity_range=(0.0, 500.0))
    stored = (subject.pixels.values + np.int16(1200)).astype(np.int16)
    bright = replace(subject, pixels=replace(subject.pixels, values=stored), after=stored)
    found = values(changed(bright, np.full((1, 1, 1), 600)))
    assert found["texture_features", "foreground"] == 100
    assert found["features", "foreground"] < 90


def test_regions_are_measured_one_by_one():
    subject = body(slices=3, size=64)
    left, right = (square(subject, 8, (32, column), 1) for column in (24, 40))
    both = replace(subject, regions=(region("left", left), region("right", right)))
    rng = np.random.default_rng(3)
    found = values(changed(both, 40 * rng.normal(size=both.mask.shape) * right))
    assert found["features", "region left"] == 100
    assert found["features", "region right"] < 60


def test_regions_of_a_few_voxels_have_no_radiomics():
    subject = body(slices=1, size=64)
    dot = replace(subject, regions=(region("dot", square(subject, 3, (32, 32))),))
    with pytest.raises(Unmeasurable, match="no region has 27 voxels"):
        list(radiomics(dot))


def test_what_mirp_does_to_logging_does_not_stay(capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level, root.manager.disable
    features(PHANTOM, PHANTOM > 0, "CT", ("statistics",))
    assert (root.handlers, root.level, root.manager.disable) == before
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_without_mirp_the_row_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mirp", None)
    with pytest.raises(Unmeasurable, match=r"pip install 'salm_dicom\[radiomics\]'"):
        list(radiomics(body(slices=1, size=64)))
