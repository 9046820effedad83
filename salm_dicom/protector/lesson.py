"""Lesson: a fresh network learns what is shown to it, which gets weaker as fast as it learns.

A perturbation of few units is next to nothing beside anatomy: a network that sees it as it is finds
no way to begin. So it is shown many times as strong at first, and weaker by a tenth wherever the
network is sure of it (a curriculum: Bengio et al., *Curriculum Learning*, ICML 2009).
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from salm_dicom.learning import optimiser_of, step
from salm_dicom.objectives import Objective

# How often as strong what is shown is at first, and the share of that after a batch that the
# network was sure in.
_STRONGEST, _WEAKER = 64.0, 0.9
# Shares of its first loss at which it is sure, and at which it has learned.
_SURE, _LEARNED = 0.3, 0.2
# Share of the old loss in its running mean.
_KEPT = 0.8
# Batches that a lesson takes, at least and at most.
_BATCHES, _MOST_BATCHES = 120, 400
# Batches that give the means and variances of its layers, once its weights are what they will be.
_TO_NORMALISE = 20

# Returns a batch of network inputs (n, 1, *size) and their targets, drawn with the generator, where
# what is to be learned is so many times as strong as it is.
Shown = Callable[[torch.Generator, float], tuple[Tensor, Tensor]]


def learn(network: nn.Module, objective: Objective, shown: Shown, rng: torch.Generator) -> int:
    """Train a network until it has learned; return how many images it learned from.

    It ends when the running mean of the loss is a fifth of what it was at first, with what is shown
    as it is, but not before 120 batches; or after 400.
    """
    network.train()
    optimiser = optimiser_of(network)
    strength, first, recent, images = _STRONGEST, inf, inf, 0
    for number in range(_MOST_BATCHES):
        inputs, targets = shown(rng, strength)
        images += len(inputs)
        loss = step(network, objective, optimiser, inputs, targets)
        if number == 0:
            first = recent = loss
        recent = _KEPT * recent + (1 - _KEPT) * loss
        if recent < _SURE * first:
            strength = max(1.0, _WEAKER * strength)
        if strength == 1 and number + 1 >= _BATCHES and recent < _LEARNED * first:
            break
    normalise(network, shown, rng)
    network.eval()
    return images


def normalise(network: nn.Module, shown: Shown, rng: torch.Generator) -> None:
    """Give the layers of a network the means and variances that they have now, as it is shown.

    While weights move fast the running ones are those of weights that are gone: a network that had
    learned everything said one label of all images.
    """
    update_bn((shown(rng, 1.0)[0] for _ in range(_TO_NORMALISE)), network)
