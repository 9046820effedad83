"""COUNTERMEASURES: what a victim may do to protected images before or while it learns from them.

What is done to images is done to the victim's training, validation and test images alike, as one
pipeline would; batches change in training only. Volumes are filtered slice by slice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from salm_dicom.audit.batches import (
    Batch,
    adversarial,
    cutmix,
    cutout,
    mixup,
    shift_and_flip,
    ueraser,
    untouched,
)
from salm_dicom.audit.filters import Filter, jpeg, levels, median, without_linear_features
from salm_dicom.audit.images import Images, Sets
from salm_dicom.errors import PlanError
from salm_dicom.perturb.robust import blur, half_and_back

_RATE = 2e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Countermeasure:
    """One setting of a countermeasure.

    Parameters
    ----------
    setting
        The exact setting, for people.
    images
        Done once to every image, of shape (n, 1, rows, columns).
    learned
        Given the training images, (n, 1, [slices,] rows, columns), and their labels, returns what
        is done once to every image or volume, after `images`.
    batch
        Done to every batch of training.
    clean_share
        Share of the training images that the victim has unprotected.
    backbone
        `TUNED` or `FROZEN`: the victim begins with weights from elsewhere, all of which learn on,
        or only those of its last layer; empty: it begins from scratch.
    rate
        Highest learning rate.
    tasks
        Keys of `TASKS` for which it makes sense.
    """

    setting: str
    images: Filter = lambda x: x
    learned: Callable[[Tensor, Tensor], Filter] | None = None
    batch: Batch = untouched
    clean_share: float = 0.0
    backbone: str = ""
    rate: float = _RATE
    tasks: tuple[str, ...] = ("classification", "multilabel", "segmentation")


# How a victim begins that does not begin from scratch, see `backbones`.
TUNED, FROZEN = "tuned", "frozen"
# It blends or hides what whole images show.
_OF_LABELS = ("classification", "multilabel")


def _clean(percent: int) -> Countermeasure:
    setting = f"{percent} % of the training images unprotected"
    return Countermeasure(setting=setting, clean_share=percent / 100)


COUNTERMEASURES: dict[str, Countermeasure] = {
    "none": Countermeasure(setting="no augmentation, nothing done to images"),
    "shift_flip": Countermeasure(
        setting="shifts up to 1/14 of the edge, mirrored half of the time", batch=shift_and_flip
    ),
    "jpeg90": Countermeasure(setting="JPEG, quality 90", images=jpeg(90)),
    "jpeg50": Countermeasure(setting="JPEG, quality 50", images=jpeg(50)),
    "jpeg10": Countermeasure(setting="JPEG, quality 10", images=jpeg(10)),
    "8bit": Countermeasure(setting="256 levels over the intensity range", images=levels(256)),
    "2bit": Countermeasure(setting="4 levels over the intensity range", images=levels(4)),
    "blur0.5": Countermeasure(setting="Gaussian, sigma 0.5", images=lambda x: blur(x, 0.5)),
    "blur1": Countermeasure(setting="Gaussian, sigma 1", images=lambda x: blur(x, 1.0)),
    "blur2": Countermeasure(setting="Gaussian, sigma 2", images=lambda x: blur(x, 2.0)),
    "median3": Countermeasure(setting="median of 3 x 3", images=median(3)),
    "median5": Countermeasure(setting="median of 5 x 5", images=median(5)),
    "half": Countermeasure(
        setting="mean of 2 x 2 pixels, back by bilinear interpolation", images=half_and_back
    ),
    "projection": Countermeasure(
        setting="what a linear classifier looks at is projected out",
        learned=without_linear_features,
        tasks=("classification",),
    ),
    "cutout": Countermeasure(
        setting="a square of half the edge blanked", batch=cutout, tasks=_OF_LABELS
    ),
    "cutmix": Countermeasure(
        setting="rectangles of other images, uniform areas", batch=cutmix, tasks=_OF_LABELS
    ),
    "mixup": Countermeasure(
        setting="blended with other images, uniform shares", batch=mixup, tasks=_OF_LABELS
    ),
    "ueraser": Countermeasure(
        setting="plasma brightness and contrast, largest loss of 5 draws", batch=ueraser
    ),
    "adversarial": Countermeasure(
        setting="adversarial training, PGD 10 x 2/255 within 8/255", batch=adversarial
    ),
    "slow": Countermeasure(setting="a tenth of the learning rate", rate=_RATE / 10),
    "clean20": _clean(20),
    "clean40": _clean(40),
    "clean60": _clean(60),
    "clean80": _clean(80),
    "pretrained": Countermeasure(
        setting="pre-trained weights, all of which learn on at a tenth of the rate",
        backbone=TUNED,
        rate=_RATE / 10,
    ),
    "frozen": Countermeasure(
        setting="pre-trained weights, of which only the last layer learns", backbone=FROZEN
    ),
}
# Those of victims that begin with weights from elsewhere.
WITH_WEIGHTS = tuple(name for name, one in COUNTERMEASURES.items() if one.backbone)


def check_countermeasure(name: str, task: str, weights: Path | None) -> None:
    """Raise where a countermeasure makes no sense for a task, or needs weights and has none."""
    if task not in COUNTERMEASURES[name].tasks:
        known = (one for one, measure in COUNTERMEASURES.items() if task in measure.tasks)
        raise PlanError(
            f"countermeasure {name} cannot be used with {task}; those that can are "
            f"{', '.join(known)}"
        )
    if COUNTERMEASURES[name].backbone and weights is None:
        raise PlanError(
            f"countermeasure {name} needs weights that victims begin with: a folder with "
            "VICTIM.safetensors (--weights)"
        )


def mixed(sets: Sets, measure: Countermeasure, rng: torch.Generator) -> Images:
    """Return the training images with some of them unprotected."""
    train, clean = sets.train, sets.clean_train
    if not measure.clean_share or clean is None:
        return train
    count = round(measure.clean_share * len(train.labels))
    chosen = torch.randperm(len(train.labels), generator=rng)[:count]
    pixels = train.pixels.clone()
    pixels[chosen] = clean.pixels[chosen]
    return replace(train, pixels=pixels)


def seen_by(measure: Countermeasure, sets: Sets) -> Sets:
    """Return the sets after what a countermeasure does once to every image."""

    def filtered(images: Images) -> Images:
        slices = images.pixels.reshape(-1, 1, *images.pixels.shape[-2:])
        return replace(images, pixels=measure.images(slices).reshape(images.pixels.shape))

    train = filtered(sets.train)
    learned = measure.learned(train.pixels, train.labels) if measure.learned else lambda x: x

    def seen(images: Images) -> Images:
        return replace(images, pixels=learned(filtered(images).pixels))

    return Sets(
        train=replace(train, pixels=learned(train.pixels)),
        validation=seen(sets.validation),
        clean_validation=seen(sets.clean_validation),
        test=seen(sets.test),
        protected_test=None if sets.protected_test is None else seen(sets.protected_test),
    )
