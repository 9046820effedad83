"""The benchmark of volumes: its crops, its splits, what it says where nothing was learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.volumes import CONTENDERS, CROP, ORGANS, Patient, Size, Split, fitted, shared, table
from salm_dicom.protector.fit import Study, fit

SIZE = Size(learn=3, choose=2, test=4, epochs=1)


def patient(seed: int) -> Patient:
    """Return noise with a slab of each organ."""
    rng = np.random.default_rng(seed)
    shape = (12, 20, 12 * len(ORGANS))
    organs = np.broadcast_to(np.repeat(np.arange(1, len(ORGANS) + 1), 12), shape)
    return Patient(
        values=rng.integers(-100, 200, shape).astype(np.int16), organs=organs.astype(np.uint8)
    )


def row(method: str, split: int, score: float, seed: int = 0, **more: float) -> dict:
    rules = dict.fromkeys(("selected", "clean_selected", "last", "best"), score)
    return {
        "method": method,
        "split": split,
        "victim": "convnet",
        "seed": seed,
        "trial": rules,
    } | more


def test_crops_show_an_organ_in_their_middle_and_sides_come_from_two_patients():
    known = patient(0), patient(1)
    split = Split.of(0, known, SIZE)
    for side, of, each in ((split.learn, 0, 3), (split.choose, 0, 2), (split.test, 1, 4)):
        assert side.values.shape == (each * len(ORGANS), *CROP)
        assert np.bincount(side.labels).tolist() == [each] * len(ORGANS)
        where = np.lib.stride_tricks.sliding_window_view(known[of].values, CROP)
        for values, label in zip(side.values, side.labels, strict=True):
            (corner,) = np.argwhere((where == values).all((-1, -2, -3)))
            middle = tuple(corner + np.array(CROP) // 2)
            assert known[of].organs[middle] == label + 1


def test_a_volume_extent_and_a_slice_extent_differ_in_nothing_else():
    one, other = CONTENDERS["salm, volume"].to_dict(), CONTENDERS["salm, slice"].to_dict()
    assert {name for name in one if one[name] != other[name]} == {"extent"}


def test_slices_are_protected_as_by_a_fit_of_slice_extent(tmp_path):
    split = Split.of(0, (patient(0), patient(1)), SIZE)
    plan = replace(CONTENDERS["salm, slice"], rounds=1, batches=1, batch_size=4, steps=2)
    studies = [Study(label=name, load=lambda v=v: v) for name, v in split.learn.volumes()]
    assert shared(fitted(plan, studies, split.fits), split.test).values.tolist() == (
        shared(fit(studies, plan, tmp_path), split.test).values.tolist()
    )


def test_random_changes_stay_in_the_budget_of_the_window():
    split = Split.of(0, (patient(0), patient(1)), SIZE)
    learn, _, about = split.protected(CONTENDERS["random"])
    assert np.abs(learn.values - split.learn.values).max() == 12  # 8/255 of 400 HU
    assert about["changed"] == pytest.approx(0.2, abs=0.03)
    assert np.array_equal(learn.labels, split.learn.labels)


def test_the_table_compares_extents_in_pairs_and_says_where_nothing_was_learned():
    about = {"psnr": 37.0, "changed": 0.2}
    rows = [
        row("clean", 0, 0.75), row("clean", 1, 0.2),
        row("salm, slice", 0, 0.75, **about), row("salm, slice", 1, 0.2, **about),
        row("salm, volume", 0, 0.5, **about), row("salm, volume", 1, 0.2, **about),
    ]  # fmt: skip
    # of another seed, which nothing can be compared with
    rows += [row("clean", 0, 0.75, seed=1), row("salm, slice", 0, 0.25, seed=1, **about)]
    rows += [row("random", 0, 0.75, **about)]
    lines = list(table(rows))
    assert "| salm, volume | 0.35 ± 0.21 | 0.50 ± 0.00 (1 unknown) |" in "\n".join(lines)
    assert "Volume less slice extent, NP last: 0.50 ± 0.00, more in 1 of 1 pairs." in lines
    assert "salm, slice less random, NP last: 0.00 ± 0.00, more in 0 of 1 pairs." in lines


def test_pairs_have_a_p_value_from_three_on():
    rows = [row("clean", 0, 0.75, seed=n) for n in range(4)]
    rows += [row("random", 0, 0.75, seed=n, psnr=37.0, changed=0.2) for n in range(3)]
    scores = (0.65, 0.55, 0.6, 0.3)  # NP 0.2, 0.4, 0.3; the last has no pair
    rows += [row("salm, slice", 0, s, seed=n, psnr=37, changed=0.2) for n, s in enumerate(scores)]
    # t = 0.3 / (0.1 / sqrt 3) = 5.196 with two degrees of freedom
    said = "salm, slice less random, NP selected: 0.30 ± 0.10, more in 3 of 3 pairs (p = 0.035)."
    assert said in table(rows)
