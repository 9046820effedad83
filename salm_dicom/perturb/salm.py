"""SALM: an error-minimising perturbation of the most salient foreground voxels.

The inner problem of min-min unlearnable examples, restricted to a sparse mask (Sun et al.,
*Medical Unlearnable Examples*, arXiv 2403.10573; Huang et al., *Unlearnable Examples*, ICLR 2021):

    min over u of L(f(x + round(u)), y),   u = 0 outside M,   |u| <= E

by K signed gradient steps; M are the top rho of the foreground by absolute gradient. A
re-implementation from the published description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits, top_k
from salm_dicom.perturb.loss import Loss, gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Salm:
    """Error-minimising perturbation of the most salient foreground voxels.

    Parameters
    ----------
    rho
        Share of foreground voxels that may change.
    steps
        Signed gradient steps, K.
    step_size
        Of each step, as a share of the budget.
    momentum
        Share of the old gradient in the running mean that picks voxels and signs; 0 uses the
        gradient of the step alone.
    schedule
        When the mask is made: `round` (at the start of each call; bounds the number of voxels),
        `step` (at every step; gates the update), `once` (in the first call; later calls keep it).
    balanced
        Take half of the voxels where the gradient is positive and half where it is negative, so
        that the changes of a sample nearly add up to 0. One-signed gradients otherwise move the
        mean of an organ by several HU.
    """

    rho: float = 0.2
    steps: int = 10
    step_size: float = 0.2
    momentum: float = 0.5
    schedule: str = "round"
    balanced: bool = True

    needs_gradient: ClassVar[bool] = True

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits,
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the float shadow of the perturbation, stored units, shape of x."""
        shadow = torch.zeros_like(x) if start is None else start.clone()
        mean = torch.zeros_like(x)
        mask = shadow != 0 if self.schedule == "once" and bool(shadow.any()) else None
        for step in range(self.steps):
            mean.mul_(self.momentum).add_(gradient(loss, x + torch.round(shadow)))
            if mask is None or self.schedule == "step":
                mask = self._salient(mean, foreground)
                if step == 0 and self.schedule == "round":
                    shadow = torch.where(mask, shadow, 0.0)
            move = self.step_size * limits.budget * mean.sign()
            moved = torch.minimum(torch.maximum(shadow - move, -limits.budget), limits.budget)
            shadow = torch.where(mask, moved, shadow)
        return shadow

    def _salient(self, mean: Tensor, foreground: Tensor) -> Tensor:
        if self.rho >= 1:
            return foreground
        if not self.balanced:
            return top_k(mean.abs(), foreground, self.rho)
        rising = top_k(mean.clamp(min=0), foreground, self.rho / 2)
        falling = top_k((-mean).clamp(min=0), foreground, self.rho / 2)
        return rising | falling


def dense(*, steps: int = 10, step_size: float = 0.2, momentum: float = 0.5) -> Salm:
    """Return error-minimising noise over the whole foreground: SALM with rho = 1, a control."""
    return Salm(rho=1.0, steps=steps, step_size=step_size, momentum=momentum)
