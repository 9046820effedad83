"""Batches: what a surrogate learns from in its phase of a round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salm_dicom.learning import attacked
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb import ATTACKED
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.sampled import Sample

# Steps of an attack on a surrogate, and the size of each as a share of the attack's radius.
_STEPS, _STEP = 10, 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Draws batches of samples as they are protected so far; see `learning.Batches`.

    Parameters
    ----------
    sample
        Returns the sample, or the samples of a volume, with a number.
    places
        Number of each sample, and which one of those it is.
    size
        Of the network's inputs.
    network
        The surrogate, in training; methods of `ATTACKED` show it inputs changed against it.
    """

    sample: Callable[[int], Sample]
    places: Sequence[tuple[int, int]]
    plan: ProtectionPlan
    size: tuple[int, ...]
    network: nn.Module

    def __call__(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return network inputs (n, 1, *size) and their targets."""
        plan, drawn = self.plan, self._draw(rng)
        inputs, targets = self._seen(drawn)
        if plan.swap:
            others, own = (self._seen(which, plain=True)[0] for which in (self._draw(rng), drawn))
            swapped = (others + inputs - own).clamp(0, 1)
            lots = torch.rand((len(inputs), *[1] * (inputs.ndim - 1)), generator=rng)
            inputs = torch.where(lots < plan.swap, swapped, inputs)
        if plan.method in ATTACKED:
            inputs = self._attacked(drawn, inputs, targets, rng)
        return inputs, targets

    def _draw(self, rng: torch.Generator) -> list[tuple[int, int]]:
        numbers = torch.randint(len(self.places), (self.plan.batch_size,), generator=rng)
        return [self.places[number] for number in numbers.tolist()]

    def _seen(
        self, drawn: Sequence[tuple[int, int]], *, plain: bool = False
    ) -> tuple[Tensor, Tensor]:
        seen = [self.sample(one).seen(i, self.size, plain=plain) for one, i in drawn]
        images, targets = zip(*seen, strict=True)
        return torch.cat(images), torch.cat(targets)

    def _attacked(
        self,
        drawn: Sequence[tuple[int, int]],
        inputs: Tensor,
        targets: Tensor,
        rng: torch.Generator,
    ) -> Tensor:
        objective = OBJECTIVES[self.plan.objective]
        budgets = torch.tensor([self.sample(one).budget_seen(i) for one, i in drawn])
        radius = ATTACKED[self.plan.method] * budgets.reshape(-1, *[1] * (inputs.ndim - 1))

        def loss(seen: Tensor) -> Tensor:
            return objective.loss(self.network(seen), targets)

        self.network.eval()
        found = attacked(loss, inputs, rng, radius=radius, step=_STEP * radius, steps=_STEPS)
        self.network.train()
        return found


def passes_of_training(plan: ProtectionPlan) -> int:
    """Return how many forward and backward passes of one image a surrogate phase takes."""
    return plan.batches * plan.batch_size * (1 + _STEPS * (plan.method in ATTACKED))
