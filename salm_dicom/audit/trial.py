"""One trial: train a victim from scratch on protected images, test it on clean ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.audit.countermeasures import COUNTERMEASURES, Countermeasure
from salm_dicom.audit.score import balanced_accuracy
from salm_dicom.audit.victims import build_victim
from salm_dicom.learning import one_thread

_BATCH = 32
_LEARNING_RATE = 2e-3
_WEIGHT_DECAY = 1e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Labelled images of one channel.

    Parameters
    ----------
    pixels
        (n, 1, rows, columns), float32, 0 to 1.
    labels
        (n,), int64, from 0.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Balanced accuracy on the clean test set at four epochs that a victim may stop at.

    Parameters
    ----------
    selected
        Where balanced accuracy on validation images from the same source as the training images
        (protected like them) is highest: what somebody does who has only what was shared.
    clean_selected
        Where it is highest on clean validation images: somebody who has labelled clean images.
    last
        After the last epoch.
    best
        Highest of all; nobody can choose it without the test set.
    train
        On the training images as they were seen, after the last epoch.
    """

    selected: float
    clean_selected: float
    last: float
    best: float
    train: float


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
    """Return how well a victim does that learned from `train`.

    AdamW, one-cycle learning rate up to 0.002, weight decay 0.01, batches of 32. Everything
    random comes from `seed`.

    Parameters
    ----------
    victim, countermeasure
        Keys of `VICTIMS` and `COUNTERMEASURES`.
    train
        Protected images, or clean ones for the reference.
    validation
        Protected like `train`.
    clean_validation, test
        Never protected.
    clean_train
        `train` without protection, in its order; used by countermeasures that mix in clean images.
    """
    measure = COUNTERMEASURES[countermeasure]
    rng = torch.Generator().manual_seed(seed)
    seen = _seen(_mixed(train, clean_train, measure, rng), measure)
    others = [_seen(one, measure) for one in (validation, clean_validation, test)]
    rows, columns = train.pixels.shape[-2:]
    network = build_victim(victim, int(train.labels.max()) + 1, (rows, columns), seed)
    steps = epochs * math.ceil(len(seen.labels) / _BATCH)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=steps)
    history = []
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)  # dropout draws from the global generator
        for _ in range(epochs):
            _epoch(network, seen, measure, optimiser, schedule, rng)
            history.append([measured(network, one) for one in others])
    by_validation, by_clean, on_test = (list(column) for column in zip(*history, strict=True))
    return Trial(
        selected=on_test[by_validation.index(max(by_validation))],
        clean_selected=on_test[by_clean.index(max(by_clean))],
        last=on_test[-1],
        best=max(on_test),
        train=measured(network, seen),
    )


@torch.no_grad()
def measured(network: nn.Module, images: Images) -> float:
    """Return the balanced accuracy of a network on images, 0 to 1."""
    network.eval()
    predicted = torch.cat([network(part).argmax(1) for part in torch.split(images.pixels, 256)])
    return balanced_accuracy(predicted, images.labels)


def _mixed(
    train: Images, clean: Images | None, measure: Countermeasure, rng: torch.Generator
) -> Images:
    """Return the training images with some of them unprotected."""
    if not measure.clean_share or clean is None:
        return train
    count = round(measure.clean_share * len(train.labels))
    chosen = torch.randperm(len(train.labels), generator=rng)[:count]
    pixels = train.pixels.clone()
    pixels[chosen] = clean.pixels[chosen]
    return replace(train, pixels=pixels)


def _seen(images: Images, measure: Countermeasure) -> Images:
    return replace(images, pixels=measure.images(images.pixels))


def _epoch(
    network: nn.Module,
    images: Images,
    measure: Countermeasure,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    rng: torch.Generator,
) -> None:
    network.train()
    weights = functional.one_hot(images.labels).float()
    for chosen in torch.split(torch.randperm(len(weights), generator=rng), _BATCH):
        # batch normalisation cannot learn from a single image
        if len(chosen) > 1:
            batch, wanted = measure.batch(images.pixels[chosen], weights[chosen], rng)
            optimiser.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(network(batch), wanted)
            torch.autograd.backward(loss)
            optimiser.step()
        schedule.step()
