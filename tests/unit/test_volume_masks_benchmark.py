"""The benchmarks of masks in volumes and of settings: crops, textures, tables, one change a row."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from benchmarks.ablation import FRESH, PLAN, ROWS
from benchmarks.ablation import table as table_of_settings
from benchmarks.volume_masks import (
    BUDGET_HU,
    CONTENDERS,
    CROP,
    ORGANS,
    TEXTURED,
    Size,
    Split,
    protections,
    table,
    textured,
)
from benchmarks.volumes import Patient, shared
from salm_dicom.protector import Protector

SIZE = Size(learn=3, choose=2, test=4, epochs=1)


def patient(seed: int) -> Patient:
    """Return noise with a slab of each organ."""
    rng = np.random.default_rng(seed)
    shape = (12, 28, 24 * len(ORGANS))
    organs = np.broadcast_to(np.repeat(np.arange(1, len(ORGANS) + 1), 24), shape).copy()
    organs[:, :4] = 0
    return Patient(
        values=rng.integers(-100, 200, shape).astype(np.int16), organs=organs.astype(np.uint8)
    )


def row(method: str, split: int, score: float) -> dict:
    rules = dict.fromkeys(("selected", "clean_selected", "last", "best", "train"), score)
    about = {"psnr": 38.0, "changed": 0.2, "chance": 0.1}
    return {"method": method, "split": split, "victim": "unet", "trial": rules} | about


def test_crops_carry_their_masks_and_both_sides_are_two_patients():
    known = patient(0), patient(1)
    split = Split.of(0, known, SIZE)
    for side, each in ((split.learn, 3), (split.choose, 2), (split.test, 4)):
        assert side.values.shape == side.organs.shape == (each * len(ORGANS), *CROP)
        middle = side.organs[:, CROP[0] // 2, CROP[1] // 2, CROP[2] // 2]
        assert (middle == np.repeat(np.arange(1, len(ORGANS) + 1), each)).all()
        seen = side.images()
        assert seen.pixels.shape == seen.labels.shape == (len(side.values), 1, *CROP)
        assert 0 <= float(seen.pixels.min()) <= float(seen.pixels.max()) <= 1
    masks, volumes = zip(*split.learn.volumes(), strict=True)
    assert masks[0].occurring <= {*ORGANS}
    assert (volumes[0].pixels.values == split.learn.values[0]).all()


def test_a_texture_lies_on_organs_only_and_each_has_its_own():
    crops = Split.of(0, (patient(0), patient(1)), SIZE).learn
    change = textured(crops).values.astype(int) - crops.values
    assert set(np.abs(change[crops.organs > 0]).tolist()) == {BUDGET_HU}
    assert not change[crops.organs == 0].any()
    signs = [change[crops.organs == label].mean() for label in range(1, len(ORGANS) + 1)]
    assert np.abs(signs).max() < BUDGET_HU / 4


def test_a_protector_changes_crops_within_its_budget():
    crops = Split.of(0, (patient(0), patient(1)), SIZE).choose
    found = shared(Protector(plan=CONTENDERS["random"]), crops)
    change = np.abs(found.values.astype(int) - crops.values)
    assert 0 < change.max() <= BUDGET_HU
    assert 0 < (change > 0).mean() <= 0.21


def test_protection_is_what_was_lost_of_what_could_be():
    rows = [row("clean", 0, 0.5), row(TEXTURED, 0, 0.3), row("clean", 1, 0.3)]
    rows += [row("salm, volume", 0, 0.5), row("salm, slice", 0, 0.1)]
    assert protections(rows, TEXTURED, "selected") == {(0, "unet"): 0.5}
    lines = list(table(rows))
    assert sum("clean unet" in line for line in lines) == 2
    assert any(line.startswith(f"| {TEXTURED} | 0.30") for line in lines)
    assert "Volume less slice extent, NP last: -1.00 ± 0.00, more in 0 of 1 pairs." in lines


def test_every_row_of_the_ablation_changes_one_setting():
    for name, plan in ROWS.items():
        base = PLAN
        if name.startswith("fresh"):
            _, fit, name = name.split(", ")
            base = replace(FRESH, seed=int(fit.removeprefix("fit ")))
        changed = [f.name for f in fields(plan) if getattr(plan, f.name) != getattr(base, f.name)]
        assert len(changed) == (name != "as it is"), name
        assert not changed or name.startswith(f"{changed[0]} ")


def test_the_ablation_prints_victims_side_by_side():
    about = {"slice_error_on_protected": 0.0, "slice_error_on_source": 0.1}
    measured = {
        "row": "as it is", "seeds": [1, 2], "np": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "psnr": 37.0,
        "ssim": 0.9, "changed": 0.2, "seconds": 70.0,
        "report": about | {"slice_passes_per_image": 84.0},
    }  # fmt: skip
    *_, line = table_of_settings([measured])
    assert line.startswith("| as it is | 0.35 ± 0.19 | 0.10 0.20 | 0.30 0.40 | 0.50 0.60 | 37.0 |")
