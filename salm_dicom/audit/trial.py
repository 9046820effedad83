"""One trial: train a victim from scratch on protected images, test it on clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.audit.batches import untouched
from salm_dicom.audit.countermeasures import COUNTERMEASURES, Countermeasure
from salm_dicom.audit.images import Images, Sets
from salm_dicom.audit.score import area_under_curve, score
from salm_dicom.audit.victims import build_victim
from salm_dicom.errors import PlanError
from salm_dicom.learning import dice_and_cross_entropy, one_thread

BATCH = 32
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Score on the clean test set at four epochs that a victim may stop at.

    Of labels the score is balanced accuracy, of masks Dice.

    Parameters
    ----------
    selected
        Where the same on validation images from the same source as the training images
        (protected like them) is highest: what somebody does who has only what was shared.
    clean_selected
        Where it is highest on clean validation images: somebody who has labelled clean images.
    last
        After the last epoch.
    best
        Highest of all; nobody can choose it without the test set.
    train
        On the training images as they were seen, after the last epoch.
    auc
        Area under the ROC curve on the clean test set, at the epoch of `selected`; None of masks.
    """

    selected: float
    clean_selected: float
    last: float
    best: float
    train: float
    auc: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a victim did at every epoch.

    Parameters
    ----------
    validation, clean_validation
        Balanced accuracy or Dice, one for each epoch.
    predicted
        Class of each test image, (epochs, n), or its mask, (epochs, n, 1, *spatial), int64.
    predicted_protected
        The same of the protected test images; None where there are none.
    test
        Labels or masks of the test images.
    train
        Balanced accuracy or Dice on the training images, after the last epoch.
    areas
        Area under the ROC curve on the test images, one for each epoch; empty for masks.
    """

    validation: tuple[float, ...]
    clean_validation: tuple[float, ...]
    predicted: Tensor
    predicted_protected: Tensor | None
    test: Tensor
    train: float
    areas: tuple[float, ...] = ()

    @property
    def selected(self) -> int:
        """The first epoch at which `validation` is highest."""
        return self.validation.index(max(self.validation))

    @property
    def clean_selected(self) -> int:
        """The first epoch at which `clean_validation` is highest."""
        return self.clean_validation.index(max(self.clean_validation))

    def trial(self) -> Trial:
        """Return the scores at the epochs a victim may stop at."""
        scores = [score(one, self.test) for one in self.predicted]
        return Trial(
            selected=scores[self.selected],
            clean_selected=scores[self.clean_selected],
            last=scores[-1],
            best=max(scores),
            train=self.train,
            auc=self.areas[self.selected] if self.areas else None,
        )


def trial(
    victim: str,
    train: Images,
    *,
    validation: Images,
    clean_validation: Images,
    test: Images,
    seed: int,
    epochs: int = 12,
    countermeasure: str = "none",
    clean_train: Images | None = None,
) -> Trial:
    """Return how well a victim does that learned from `train`; see `learn` and `Sets`."""
    sets = Sets(
        train=train,
        validation=validation,
        clean_validation=clean_validation,
        test=test,
        clean_train=clean_train,
    )
    found = learn(victim, sets, seed=seed, epochs=epochs, countermeasure=countermeasure)
    return found.trial()


def learn(
    victim: str, sets: Sets, *, seed: int, epochs: int = 12, countermeasure: str = "none"
) -> Course:
    """Train a victim and return what it did at every epoch.

    AdamW, one-cycle learning rate up to 0.002, weight decay 0.01, batches of 32. Everything
    random comes from `seed`. Of labels the loss is cross-entropy, of masks DiceCE.

    Parameters
    ----------
    victim, countermeasure
        Keys of `VICTIMS` (of masks: `SEGMENTERS`) and `COUNTERMEASURES`.

    Raises
    ------
    PlanError
        The countermeasure works on labels or moves images, and there are masks.
    """
    measure = COUNTERMEASURES[countermeasure]
    if sets.train.labels.ndim > 1 and (measure.learned or measure.batch is not untouched):
        raise PlanError(f"countermeasure {countermeasure} knows labels only, no masks")
    rng = torch.Generator().manual_seed(seed)
    seen = _seen_by(measure, replace(sets, train=_mixed(sets, measure, rng)))
    size = tuple(seen.train.pixels.shape[2:])
    network = build_victim(victim, int(seen.train.labels.max()) + 1, size, seed)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)  # dropout draws from the global generator
        return _course(network, seen, measure, epochs, rng)


def _course(
    network: nn.Module, seen: Sets, measure: Countermeasure, epochs: int, rng: torch.Generator
) -> Course:
    steps = epochs * math.ceil(len(seen.train.labels) / BATCH)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
    scores, clean_scores = [], []
    on_test: list[Tensor] = []
    areas: list[float] = []
    on_protected: list[Tensor] = []
    for _ in range(epochs):
        _epoch(network, seen.train, measure, optimiser, schedule, rng)
        scores.append(measured(network, seen.validation))
        clean_scores.append(measured(network, seen.clean_validation))
        found = outputs(network, seen.test)
        on_test.append(_classes(found, seen.test))
        if seen.test.labels.ndim == 1:
            areas.append(area_under_curve(found, seen.test.labels))
        if seen.protected_test is not None:
            on_protected.append(predictions(network, seen.protected_test))
    return Course(
        validation=tuple(scores),
        clean_validation=tuple(clean_scores),
        predicted=torch.stack(on_test),
        predicted_protected=torch.stack(on_protected) if on_protected else None,
        test=seen.test.labels,
        train=measured(network, seen.train),
        areas=tuple(areas),
    )


@torch.no_grad()
def outputs(network: nn.Module, images: Images) -> Tensor:
    """Return what a network says of images, (n, classes), or of each voxel, before softmax."""
    network.eval()
    return torch.cat([network(part) for part in torch.split(images.pixels, 256)])


def predictions(network: nn.Module, images: Images) -> Tensor:
    """Return the most likely class of each image, or of each voxel; shape of the labels."""
    return _classes(outputs(network, images), images)


def _classes(found: Tensor, images: Images) -> Tensor:
    return found.argmax(1).reshape(images.labels.shape)


def measured(network: nn.Module, images: Images) -> float:
    """Return the balanced accuracy or Dice of a network on images, 0 to 1."""
    return score(predictions(network, images), images.labels)


def _mixed(sets: Sets, measure: Countermeasure, rng: torch.Generator) -> Images:
    """Return the training images with some of them unprotected."""
    train, clean = sets.train, sets.clean_train
    if not measure.clean_share or clean is None:
        return train
    count = round(measure.clean_share * len(train.labels))
    chosen = torch.randperm(len(train.labels), generator=rng)[:count]
    pixels = train.pixels.clone()
    pixels[chosen] = clean.pixels[chosen]
    return replace(train, pixels=pixels)


def _seen_by(measure: Countermeasure, sets: Sets) -> Sets:
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


def _epoch(
    network: nn.Module,
    images: Images,
    measure: Countermeasure,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: torch.Generator,
) -> None:
    is_mask = images.labels.ndim > 1
    weights = images.labels if is_mask else functional.one_hot(images.labels).float()
    for chosen in torch.split(torch.randperm(len(weights), generator=rng), BATCH):
        # batch normalisation cannot learn from a single image
        if len(chosen) > 1:
            batch, wanted = _changed(network, images.pixels[chosen], weights[chosen], measure, rng)
            network.train()
            optimiser.zero_grad(set_to_none=True)
            loss = _loss(network(batch), wanted)
            torch.autograd.backward(loss)
            optimiser.step()
        schedule.step()


def _loss(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean loss of a batch, of weights of labels or of masks."""
    if wanted.ndim == 2:
        return functional.cross_entropy(outputs, wanted)
    return dice_and_cross_entropy(outputs, wanted) / len(outputs)


def _changed(
    network: nn.Module, x: Tensor, weights: Tensor, measure: Countermeasure, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a batch after the countermeasure; slices of volumes are its channels."""
    network.eval()  # looking at images must not move the averages of batch normalisation

    def loss(flat: Tensor) -> Tensor:
        return functional.cross_entropy(network(flat.reshape(x.shape)), weights, reduction="none")

    flat, wanted = measure.batch(x.reshape(len(x), -1, *x.shape[-2:]), weights, rng, loss)
    return flat.reshape(x.shape), wanted
