"""One trial: train a victim on protected images, test it on clean ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from salm_dicom.audit.backbones import begin
from salm_dicom.audit.countermeasures import (
    COUNTERMEASURES,
    FROZEN,
    TUNED,
    Countermeasure,
    check_countermeasure,
    mixed,
    seen_by,
)
from salm_dicom.audit.images import Images, Sets
from salm_dicom.audit.tasks import TASKS, Task, outputs_of, task_of
from salm_dicom.learning import reproducible
from salm_dicom.protector.surrogate import OnDevice
from salm_dicom.victims import build_victim

BATCH = 32
_WEIGHT_DECAY = 1e-2
# Bounds how many images a network looks at together: 256 with labels, fewer with masks.
_IMAGES_AT_ONCE, _VOXELS_AT_ONCE = 256, 2**19


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Score on the clean test set at four epochs that a victim may stop at.

    What the score is, `TASKS` says.

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
        Score on validation images, one for each epoch.
    evidence
        What it made of the test images, (epochs, n, ...), see `Task`.
    evidence_protected
        The same of the protected test images; None where there are none.
    scores
        Score on the test images, one for each epoch.
    train
        Score on the training images, after the last epoch.
    areas
        Area under the ROC curve on the test images, one for each epoch; empty for masks.
    """

    validation: tuple[float, ...]
    clean_validation: tuple[float, ...]
    evidence: Tensor
    evidence_protected: Tensor | None
    scores: tuple[float, ...]
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
        return Trial(
            selected=self.scores[self.selected],
            clean_selected=self.scores[self.clean_selected],
            last=self.scores[-1],
            best=max(self.scores),
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
    weights: Path | None = None,
    device: str = "cpu",
) -> Trial:
    """Return how well a victim does that learned from `train`; see `learn` and `Sets`."""
    sets = Sets(
        train=train,
        validation=validation,
        clean_validation=clean_validation,
        test=test,
        clean_train=clean_train,
    )
    found = learn(
        victim, sets, seed=seed, epochs=epochs, countermeasure=countermeasure, weights=weights,
        device=device,
    )  # fmt: skip
    return found.trial()


def learn(
    victim: str,
    sets: Sets,
    *,
    seed: int,
    epochs: int = 12,
    countermeasure: str = "none",
    weights: Path | None = None,
    device: str = "cpu",
) -> Course:
    """Train a victim and return what it did at every epoch.

    AdamW, one-cycle learning rate up to that of the countermeasure (0.002 mostly), weight decay
    0.01, batches of 32. Everything random comes from `seed`. The loss is that of the task:
    cross-entropy, of masks DiceCE.

    Parameters
    ----------
    victim, countermeasure
        Keys of the task's victims and of `COUNTERMEASURES`.
    weights
        Folder of what a victim begins with, see `backbones`, for countermeasures with a backbone.
    device
        Where it learns, see `device_of`; on another kind sums come out slightly otherwise.

    Raises
    ------
    PlanError
        The countermeasure needs another kind of labels, or weights that are not there.
    """
    measure = COUNTERMEASURES[countermeasure]
    check_countermeasure(countermeasure, task_of(sets.train.labels), weights)
    rng = torch.Generator().manual_seed(seed)
    seen = seen_by(measure, replace(sets, train=mixed(sets, measure, rng)))
    size = tuple(seen.train.pixels.shape[2:])
    outputs = outputs_of(seen.train.labels)
    network = build_victim(victim, outputs, size, seed)
    if measure.backbone and weights is not None:
        last = begin(network, victim, weights, outputs, size)
        network.requires_grad_(measure.backbone == TUNED)
        for one in last:
            one.requires_grad_(True)
    with torch.random.fork_rng(devices=[]), reproducible():
        torch.manual_seed(seed)  # dropout draws from the global generator
        return _course(OnDevice(network, device), seen, measure, epochs, rng)


def _course(
    network: nn.Module, seen: Sets, measure: Countermeasure, epochs: int, rng: torch.Generator
) -> Course:
    steps = epochs * math.ceil(len(seen.train.labels) / BATCH)
    learning = [one for one in network.parameters() if one.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=measure.rate, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, measure.rate, total_steps=steps)
    task = TASKS[task_of(seen.train.labels)]
    scores, clean_scores, on_test_scores = [], [], []
    on_test: list[Tensor] = []
    areas: list[float] = []
    on_protected: list[Tensor] = []
    for _ in range(epochs):
        _epoch(network, seen.train, task, measure, optimiser, schedule, rng)
        scores.append(_measured(network, seen.validation, task))
        clean_scores.append(_measured(network, seen.clean_validation, task))
        on_test.append(_asked(network, seen.test, task.evidence))
        on_test_scores.append(task.scored(on_test[-1], seen.test.labels))
        if task.area is not None:
            found = _asked(network, seen.test, lambda outputs, _: outputs)
            areas.append(task.area(found, seen.test.labels))
        if seen.protected_test is not None:
            on_protected.append(_asked(network, seen.protected_test, task.evidence))
    return Course(
        validation=tuple(scores),
        clean_validation=tuple(clean_scores),
        evidence=torch.stack(on_test),
        evidence_protected=torch.stack(on_protected) if on_protected else None,
        scores=tuple(on_test_scores),
        train=_measured(network, seen.train, task),
        areas=tuple(areas),
    )


@torch.no_grad()
def _asked(
    network: nn.Module, images: Images, answer: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return what `answer` makes of a network's outputs, before softmax, and the labels."""
    network.eval()
    voxels = images.labels[0].numel()
    together = max(min(_IMAGES_AT_ONCE, _VOXELS_AT_ONCE // voxels), 1)
    parts = torch.split(images.pixels, together), torch.split(images.labels, together)
    return torch.cat([answer(network(x), labels) for x, labels in zip(*parts, strict=True)])


def _measured(network: nn.Module, images: Images, task: Task) -> float:
    """Return the score of a network on images, 0 to 1."""
    return task.scored(_asked(network, images, task.evidence), images.labels)


def _epoch(
    network: nn.Module,
    images: Images,
    task: Task,
    measure: Countermeasure,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: torch.Generator,
) -> None:
    weights = task.weights(images.labels)
    for chosen in torch.split(torch.randperm(len(weights), generator=rng), BATCH):
        # batch normalisation cannot learn from a single image
        if len(chosen) > 1:
            pixels, wanted = images.pixels[chosen], weights[chosen]
            batch, wanted = _changed(network, pixels, wanted, task, measure, rng)
            # running means of a frozen backbone stay what they are
            network.train(measure.backbone != FROZEN)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(task.loss(network(batch), wanted))
            optimiser.step()
        schedule.step()


def _changed(
    network: nn.Module,
    x: Tensor,
    weights: Tensor,
    task: Task,
    measure: Countermeasure,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return a batch after the countermeasure; slices of volumes are its channels."""
    network.eval()  # looking at images must not move the averages of batch normalisation

    def loss(flat: Tensor) -> Tensor:
        return task.losses(network(flat.reshape(x.shape)), weights)

    def channels(values: Tensor) -> Tensor:
        return values if values.ndim == 2 else values.reshape(len(x), -1, *x.shape[-2:])

    flat, wanted = measure.batch(channels(x), channels(weights), rng, loss)
    return flat.reshape(x.shape), wanted.reshape(weights.shape)
