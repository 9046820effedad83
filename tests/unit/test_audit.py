"""The audit: it finds a protection that is there, and says so when there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.method import CONTENDERS, table
from salm_dicom.audit import (
    COUNTERMEASURES,
    VICTIMS,
    Images,
    Trial,
    normalised_protection,
    trial,
    verdict,
)
from salm_dicom.audit.score import area_under_curve, balanced_share
from salm_dicom.errors import PlanError
from salm_dicom.perturb import METHODS
from salm_dicom.victims import build_victim

SIDE = 28
# Victims that are small enough to learn from volumes on a processor.
SMALL = [name for name in VICTIMS if name not in ("resnet-18", "densenet-121", "efficientnet-b0")]


def discs(count: int, seed: int) -> Images:
    """Return noisy images of a bright disc (1) or none (0), as many of each."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    place = torch.arange(SIDE) - SIDE / 2
    disc = (place[:, None] ** 2 + place**2 < 36).float()
    pixels = 0.4 + 0.05 * torch.randn((count, 1, SIDE, SIDE), generator=rng)
    pixels += 0.15 * disc * labels[:, None, None, None]
    return Images(pixels=pixels.clamp(0, 1), labels=labels)


def marked(images: Images) -> Images:
    """Return images with a checkerboard on class 1 and its contrary on class 0, without discs."""
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2 * 2.0 - 1
    sign = images.labels[:, None, None, None] * 2.0 - 1
    # with the disc covered, the mark is all there is to learn
    return replace(images, pixels=(0.4 + 0.05 * sign * board).expand_as(images.pixels).clone())


def attacked(train: Images, validation: Images, **more: object) -> Trial:
    return trial(
        "convnet",
        train,
        validation=validation,
        clean_validation=discs(40, 2),
        test=discs(100, 3),
        seed=5,
        epochs=6,
        **more,
    )


def test_a_victim_learns_from_clean_images_and_not_from_a_mark_that_hides_them():
    clean = attacked(discs(200, 0), discs(60, 1))
    blind = attacked(marked(discs(200, 0)), marked(discs(60, 1)))
    assert clean.selected > 0.9
    assert blind.train == 1.0
    assert blind.last == pytest.approx(0.5, abs=0.1)
    assert normalised_protection(clean.last, blind.last, 0.5) > 0.8


def test_a_change_that_says_nothing_about_the_label_is_not_called_a_protection():
    clean = attacked(discs(200, 0), discs(60, 1))
    rng = torch.Generator().manual_seed(9)
    source = discs(200, 0)
    noise = 8 / 255 * torch.randn(source.pixels.shape, generator=rng).sign()
    noisy = attacked(replace(source, pixels=source.pixels + noise), discs(60, 1))
    found = normalised_protection(clean.selected, noisy.selected, 0.5)
    assert found < 0.2
    assert verdict(found).startswith("not protected")


def test_clean_images_that_are_mixed_in_undo_a_mark():
    source = discs(200, 0)
    blind = attacked(marked(source), marked(discs(60, 1)), clean_train=source)
    mixed = attacked(marked(source), discs(60, 1), clean_train=source, countermeasure="clean20")
    assert mixed.last > blind.last + 0.2


def test_the_best_epoch_is_at_least_as_good_as_any_that_somebody_can_choose():
    found = attacked(discs(60, 0), discs(40, 1))
    assert found.best >= max(found.selected, found.clean_selected, found.last)


def test_a_trial_repeats_itself_whatever_the_global_generator_does():
    first = attacked(discs(60, 0), discs(40, 1))
    torch.rand(7)
    state = torch.get_rng_state()
    assert asdict(attacked(discs(60, 0), discs(40, 1))) == asdict(first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, (SIDE, SIDE)) for name in VICTIMS] + [(name, (4, 16, 16)) for name in SMALL],
)
def test_every_victim_tells_classes_apart_and_depends_on_its_seed_alone(name, size):
    x = torch.rand((2, 1, *size))
    first, same, other = (build_victim(name, 3, size, seed).eval() for seed in (1, 1, 2))
    with torch.no_grad():
        assert first(x).shape == (2, 3)
        assert torch.equal(first(x), same(x))
        assert not torch.equal(first(x), other(x))


def put_through(name: str, images: Images) -> tuple[Tensor, Tensor]:
    """Return pixels and label weights after everything a countermeasure does."""
    measure = COUNTERMEASURES[name]
    pixels = measure.images(images.pixels)
    if measure.learned:
        pixels = measure.learned(pixels, images.labels)(pixels)
    weights = torch.nn.functional.one_hot(images.labels, 2).float()
    rng = torch.Generator().manual_seed(0)
    # larger for images that are brighter at the left
    slope = torch.linspace(1, 0, SIDE)
    return measure.batch(pixels, weights, rng, lambda x: (x * slope).sum((1, 2, 3)))


@pytest.mark.parametrize("name", COUNTERMEASURES)
def test_every_countermeasure_keeps_shape_and_range_and_leaves_its_input_alone(name):
    images = discs(6, 0)
    before = images.pixels.clone()
    batch, wanted = put_through(name, images)
    assert torch.equal(images.pixels, before)
    assert batch.shape == before.shape
    assert batch.min() >= -1e-6
    assert batch.max() <= 1 + 1e-6
    assert torch.allclose(wanted.sum(1), torch.ones(6))
    assert COUNTERMEASURES[name].setting


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, one in COUNTERMEASURES.items()
        if name not in ("none", "8bit", "slow") and not one.clean_share and not one.backbone
    ],
)
def test_no_countermeasure_is_the_identity(name):
    images = discs(6, 0)
    seen, _ = put_through(name, images)
    assert (seen - images.pixels).abs().max() > 1 / 255


def test_adversarial_training_stays_within_8_of_255_and_makes_the_loss_large():
    images = discs(6, 0)
    seen, _ = put_through("adversarial", images)
    change = seen - images.pixels
    assert change.abs().max() <= 8 / 255 + 1e-6
    # all but the last column, whose weight in this loss is 0
    assert (change[..., :-1] > 7 / 255).float().mean() > 0.99


def test_ueraser_takes_the_draw_with_the_largest_loss():
    x = discs(1, 0).pixels.expand(40, -1, -1, -1)
    weights = torch.ones(40, 1)

    def loss(images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))

    def mean(name: str, by: Callable[[Tensor], Tensor]) -> float:
        rng = torch.Generator().manual_seed(1)
        return float(COUNTERMEASURES[name].batch(x, weights, rng, by)[0].mean())

    largest = mean("ueraser", loss)
    smallest = mean("ueraser", lambda images: -loss(images))
    assert largest > float(x.mean()) + 0.05
    assert smallest < float(x.mean()) - 0.05


def test_cutmix_blends_labels_by_the_area_that_comes_from_the_other_image():
    x = torch.stack([torch.full((1, 20, 20), i / 3) for i in range(4)])
    seen, wanted = COUNTERMEASURES["cutmix"].batch(
        x, torch.eye(4), torch.Generator().manual_seed(3), lambda _: torch.zeros(4)
    )
    pixels_of = torch.stack([(seen * 3).round().flatten(1) == i for i in range(4)], 1)
    assert torch.allclose(pixels_of.float().mean(2), wanted, atol=1e-6)
    assert 0 < wanted.min() + wanted.max() < 2


def test_projection_removes_one_direction_that_tells_two_classes_apart():
    images = discs(200, 0)
    board = (torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2 * 2.0 - 1
    mark = 0.02 * board * (images.labels[:, None, None, None] * 2.0 - 1)
    marked = images.pixels + mark
    left = COUNTERMEASURES["projection"].learned(marked, images.labels)(marked)
    apart = [
        float((one[images.labels == 1] - one[images.labels == 0]).mul(board).mean().abs())
        for one in (marked, left)
    ]
    assert apart[1] < 0.1 * apart[0]
    assert torch.linalg.matrix_rank((left - marked).flatten(1), atol=1e-3) == 1


def test_256_levels_change_floats_by_half_a_level_and_8_bit_images_not_at_all():
    floats = discs(2, 0).pixels
    once = COUNTERMEASURES["8bit"].images(floats)
    assert 0 < (once - floats).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(COUNTERMEASURES["8bit"].images(once), once)


def test_two_bits_leave_four_values():
    assert len(COUNTERMEASURES["2bit"].images(torch.rand(1, 1, 64, 64)).unique()) == 4


def test_the_median_is_that_of_nine_pixels():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1.0
    image[0, 0, :, 0] = 1.0
    out = COUNTERMEASURES["median3"].images(image)[0, 0]
    assert not out[1:4, 2:4].any()
    assert (out[:, 0] == 1).all()


def test_lower_jpeg_quality_is_further_from_the_image():
    pixels = discs(4, 0).pixels
    far = [
        float((COUNTERMEASURES[f"jpeg{q}"].images(pixels) - pixels).abs().mean())
        for q in (90, 50, 10)
    ]
    assert far == sorted(far)


def test_balanced_accuracy_does_not_reward_the_larger_class():
    labels = torch.tensor([0] * 9 + [1])
    assert balanced_share(labels == 0, labels) == 0.5
    assert balanced_share(labels == labels, labels) == 1.0


def test_normalised_protection_is_0_at_the_clean_score_and_1_at_chance():
    assert normalised_protection(0.8, 0.8, 0.5) == 0
    assert normalised_protection(0.8, 0.5, 0.5) == pytest.approx(1)
    assert normalised_protection(0.8, 0.9, 0.5) < 0


def test_nothing_is_said_about_a_task_that_clean_victims_do_not_learn():
    with pytest.raises(PlanError, match="not learned without protection"):
        normalised_protection(0.5, 0.4, 0.5)


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.3, "protected: 100 %"), (0.95, "protected"), (0.7, "partly"), (0.3, "weakly"),
     (0.1, "not protected"), (-0.4, "not protected: 0 %")],
)  # fmt: skip
def test_a_verdict_says_in_words_how_much_was_lost(value, words):
    assert verdict(value).startswith(words)


def test_the_benchmark_puts_every_method_through_the_audit_and_prints_rows_that_fail():
    assert {plan.method for plan in CONTENDERS.values()} == set(METHODS)
    row = {
        "method": "salm", "set": "early", "psnr": 37.0, "ssim": 0.9, "changed": 0.2,
        "passes": 40.0, "fit_seconds": 10.0, "apply_seconds": 1.0, "victim": "convnet",
        "victim_seed": 100, "trial": {"auc": 0.75}, "fit_seed": 0,
    }  # fmt: skip
    rows = [
        row | {"np": dict.fromkeys(("selected", "clean_selected", "last", "best"), value)}
        for value in (0.0, 0.1)
    ]
    clean = {"convnet/none/100": {"auc": 0.95}}
    line = list(table({"rows": rows, "robust": [], "clean": clean}))[2]
    assert "0.95 ± 0.00 | 0.75 ± 0.00" in line
    assert "0.05 ± 0.07" in line
    assert "not protected" in line


@settings(max_examples=30)
@given(st.data())
def test_the_area_under_the_curve_is_how_often_a_pair_is_in_the_right_order(data):
    count = data.draw(st.integers(4, 20))
    labels = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)))
    if len(set(labels.tolist())) < 2:
        labels[0], labels[1] = 0, 2
    outputs = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(-3, 3), min_size=3, max_size=3),
                min_size=count, max_size=count,
            )
        )
    ).float()  # fmt: skip
    there, shares = sorted(set(labels.tolist())), outputs.softmax(1)
    areas = []
    for one in there:
        mine, rest = shares[labels == one, one], shares[labels != one, one]
        order = (mine[:, None] > rest).double() + 0.5 * (mine[:, None] == rest).double()
        areas.append(float(order.mean()))
    assert area_under_curve(outputs, labels) == pytest.approx(sum(areas) / len(areas))
