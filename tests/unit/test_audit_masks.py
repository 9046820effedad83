"""The audit of masks: its victims, Dice, what guessing reaches, and what it does not try."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.segmentation import CONTENDERS, table
from salm_dicom.audit import (
    COUNTERMEASURES,
    SEGMENTERS,
    Images,
    Trial,
    chance_of_masks,
    normalised_protection,
    trial,
)
from salm_dicom.audit.tasks import TASKS
from salm_dicom.errors import PlanError
from salm_dicom.networks import NetworkSpec
from salm_dicom.plan import MASKS
from salm_dicom.victims import build_victim

SIDE = 24


def discs(count: int, seed: int) -> Images:
    """Return noisy images of a bright disc somewhere, and its mask."""
    rng = torch.Generator().manual_seed(seed)
    middle = torch.randint(6, SIDE - 6, (count, 2, 1, 1, 1), generator=rng)
    row, column = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    masks = ((row - middle[:, 0]) ** 2 + (column - middle[:, 1]) ** 2 < 20).long()
    pixels = 0.4 + 0.05 * torch.randn((count, 1, SIDE, SIDE), generator=rng) + 0.2 * masks
    return Images(pixels=pixels.clamp(0, 1), labels=masks)


def score(found: torch.Tensor, masks: torch.Tensor) -> float:
    """Return the Dice of masks as if a victim had said them."""
    outputs = torch.nn.functional.one_hot(found[:, 0], int(masks.max()) + 1).movedim(-1, 1)
    task = TASKS["segmentation"]
    return task.scored(task.evidence(outputs, masks), masks)


def turned(images: Images) -> Images:
    """Return images that show a dark disc where there was a bright one."""
    return replace(images, pixels=0.8 - images.pixels)


def attacked(train: Images, victim: str = "unet-wide", **more: object) -> Trial:
    return trial(
        victim, train, validation=discs(16, 1), clean_validation=discs(16, 2), test=discs(32, 3),
        seed=5, epochs=20, **more,
    )  # fmt: skip


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(48, 48), (30, 25), (9, 26, 24)])
def test_every_victim_of_masks_answers_for_every_place_and_follows_its_seed(name, size):
    one, same, other = (build_victim(name, 3, size, seed) for seed in (1, 1, 2))
    one.eval()
    assert one(torch.rand(2, 1, *size)).shape == (2, 3, *size)
    weights = [torch.cat([p.reshape(-1) for p in net.parameters()]) for net in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_victim_of_masks_is_built_like_a_surrogate():
    spec = NetworkSpec(size=(48, 48), classes=1, objective="segmentation")
    layers = {tuple(v.shape for v in spec.build(0).state_dict().values())}
    for name in SEGMENTERS:
        layers.add(tuple(v.shape for v in build_victim(name, 2, (48, 48), 0).state_dict().values()))
    assert len(layers) == 1 + len(SEGMENTERS) >= 4


def test_a_victim_learns_masks_from_clean_images_and_not_from_images_that_show_the_contrary():
    chance = chance_of_masks(discs(32, 3).labels)
    clean, blind = attacked(discs(64, 0)), attacked(turned(discs(64, 0)))
    assert clean.last > 0.8
    assert blind.train > 0.8
    assert blind.last < 0.3
    assert normalised_protection(clean.last, blind.last, chance) > 0.7


def test_two_trials_with_one_seed_are_the_same():
    assert attacked(discs(32, 0)) == attacked(discs(32, 0))


def test_dice_of_masks_takes_all_voxels_of_a_set_together():
    masks = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    masks[0, 0, :2] = 1
    found = torch.zeros_like(masks)
    found[0, 0, 1:3] = 1
    assert score(found, masks) == 0.5
    found[1] = 1  # the second image shows nothing
    assert score(found, masks) == pytest.approx(2 * 4 / (8 + 24))
    assert score(masks, masks) == 1.0


def test_guessing_is_one_class_everywhere():
    masks = torch.zeros(1, 1, 10, 10, dtype=torch.long)
    masks[..., :2, :] = 1
    assert chance_of_masks(masks) == pytest.approx(2 * 0.2 / 1.2)
    assert chance_of_masks(masks) == pytest.approx(score(torch.ones_like(masks), masks))
    masks[..., 5:9, :] = 2
    assert chance_of_masks(masks) == pytest.approx(score(torch.full_like(masks, 2), masks))


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_countermeasures_that_know_labels_only_or_lack_weights_are_refused(name):
    measure = COUNTERMEASURES[name]
    images = discs(4, 0)
    few = {"validation": images, "clean_validation": images, "test": images, "seed": 0}
    if measure.backbone:
        with pytest.raises(PlanError, match="needs weights"):
            trial("unet-wide", images, **few, epochs=1, countermeasure=name)
    elif name not in ("cutout", "cutmix", "mixup", "projection"):
        found = trial("unet-wide", images, **few, epochs=1, countermeasure=name, clean_train=images)
        assert 0 <= found.last <= 1
    else:
        assert measure.setting
        with pytest.raises(PlanError, match="cannot be used with segmentation"):
            trial("unet-wide", images, **few, epochs=1, countermeasure=name)


def test_the_benchmark_tries_every_mask_mode_and_prints_rows_that_fail():
    assert {plan.mask for plan in CONTENDERS.values()} == set(MASKS)
    assert {plan.method for plan in CONTENDERS.values()} == {"salm", "dense", "random"}
    clean = {"selected": 0.6}
    row = {
        "method": "salm, gradient", "fit_seed": 0, "victim": "a", "victim_seed": 1, "psnr": 38.0,
        "changed": 0.2, "passes": 80, "seconds": 9.0,
        "trial": {"selected": 0.6}, "np": {"selected": 0.0, "clean_selected": -0.1, "last": 0.1},
    }  # fmt: skip
    given = [{"trial": clean, "chance": 0.1}]
    lines = list(table({"clean": given, "rows": [row, row]}))
    assert "Dice 0.60" in lines[0]
    assert lines[-1].endswith("| not protected |")
    assert "-0.10 ± 0.00" in lines[-1]
    unknown = row | {"np": row["np"] | {"last": None}}
    assert "0.10 ± 0.00 (1 unknown)" in list(table({"clean": given, "rows": [row, unknown]}))[-1]


def test_the_benchmark_compares_with_dense_and_random_victim_by_victim_where_both_are_known():
    def row(method: str, victim: str, selected: float | None, last: float) -> dict[str, object]:
        return {
            "method": method, "fit_seed": 0, "victim": victim, "victim_seed": 100, "psnr": 38.0,
            "changed": 0.2, "passes": 80, "seconds": 9.0, "trial": {"selected": 0.6},
            "np": {"selected": selected, "clean_selected": 0.0, "last": last},
        }  # fmt: skip

    rows = [row("salm, gradient", v, s, s or 0) for v, s in (("a", 0.4), ("b", 0.6), ("c", 0.9))]
    rows += [row("dense", v, s, 0.25) for v, s in (("a", 0.1), ("b", 0.2), ("c", None))]
    given = [{"trial": {"selected": 0.6}, "chance": 0.1}]
    line = list(table({"clean": given, "rows": rows}))[-1]
    # by hand: 0.3 and 0.4, of mean 0.35, deviation 0.07 and t = 0.35 / (0.0707 / sqrt 2) = 7
    assert line.startswith("| salm, gradient less dense | 0.35 ± 0.07 | 2 of 2 | 7.0 | 0.090 |")
    assert "| 0.38 ± 0.25 |" in line  # 0.15, 0.35 and 0.65
