"""SALM: an error-minimising perturbation of the most salient foreground voxels, and its controls.

The inner problem of min-min unlearnable examples, restricted to a sparse mask (Sun et al.,
*Medical Unlearnable Examples*, arXiv 2403.10573; Huang et al., *Unlearnable Examples*, ICLR 2021):

    min over u of L(f(x + round(u)), y),   u = 0 outside M,   |u| <= E

by K signed gradient steps; M are the top rho of the foreground by absolute gradient. A
re-implementation from the published description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss, SparseLoss, asks_in_turn, gradient, of_turn
from salm_dicom.perturb.pairs import top_pairs
from salm_dicom.perturb.robust import TRANSFORMS, in_blocks
from salm_dicom.perturb.top_k import places, top_k


@dataclass(frozen=True, slots=True)
class _Problem:
    """What a call is given, but for where it begins."""

    x: Tensor
    loss: Loss
    foreground: Tensor
    budget: Tensor
    rng: torch.Generator


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
        Take as many voxels that rise as voxels that fall, in every region.
    region
        Edge in voxels of the squares, within a slice, that count as a region; None: whole slices.
        One-signed gradients otherwise move the mean of an organ by several HU.
    mask
        Which voxels: `salient` (largest gradient), or a control at the same rho: `low_gradient`
        (smallest), `random`.
    label_shift
        0: the sample's own label gets easier to see (min-min). 1: the next class is shown instead,
        for a surrogate that was trained on clean data (targeted adversarial poisoning, Fowl et
        al., *Adversarial Examples Make Strong Poisons*, NeurIPS 2021).
    eot
        Keys of `TRANSFORMS`: what happens to the images, at random, before the surrogate sees them.
    block
        Edge in voxels of the squares, within a slice, that share one mask and one sign; above 1
        it keeps the perturbation to low frequencies.
    between
        Share of its gradient that each slice of a volume has from the slice before and the one
        after, half from each, so that voxels and signs go on from slice to slice.
    noise
        Largest uniform noise, as a share of the budget, that images carry at every step, so that
        the perturbation outlives it (stable error-minimising noise, Liu et al., *Stable
        Unlearnable Example*, AAAI 2024, on a surrogate that is trained against an attack).
    """

    rho: float = 0.2
    steps: int = 10
    step_size: float = 0.2
    momentum: float = 0.9
    schedule: str = "round"
    balanced: bool = True
    region: int | None = None
    mask: str = "salient"
    label_shift: int = 0
    eot: tuple[str, ...] = ()
    block: int = 1
    between: float = 0.0
    noise: float = 0.0

    needs_gradient: ClassVar[bool] = True
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = False

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits[Tensor],
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the float shadow of the perturbation, stored units, shape of x."""
        shadow = torch.zeros_like(x) if start is None else start.clone()
        if not self.steps:
            return shadow
        problem = _Problem(x, loss, foreground, limits.budget, rng)
        if self.schedule == "step" or self.rho >= 1:
            return self._everywhere(problem, shadow)
        return self._inside(problem, shadow)

    def _everywhere(self, p: _Problem, shadow: Tensor) -> Tensor:
        """Return the shadow where the mask is made anew at every step, or is the foreground."""
        mean = torch.zeros_like(p.x)
        for step in range(self.steps):
            slope = self._slope(p, p.x + torch.round(shadow), step)
            mean.mul_(self.momentum).add_(slope * (p.budget > 0))
            mask = self._chosen(p, mean)
            wish = _moved(shadow, mean, self.step_size * p.budget, p.budget, -p.budget)
            shadow = torch.where(mask, wish, shadow)
        return shadow

    def _inside(self, p: _Problem, shadow: Tensor) -> Tensor:
        """Return the shadow where the first step chooses the mask: the others look inside only."""
        slope = self._slope(p, p.x + torch.round(shadow), 0)
        if not (p.budget > 0).all():
            slope = torch.where(p.budget > 0, slope, 0.0)
        is_kept = self.schedule == "once" and bool(shadow.any())
        mask = shadow != 0 if is_kept else self._chosen(p, slope)
        at = places(mask)
        before, wish = (one.reshape(-1).index_select(0, at) for one in (p.x, shadow))
        budget = p.budget.expand_as(p.x).reshape(-1).index_select(0, at)
        stride, least = self.step_size * budget, -budget
        mean = slope.reshape(-1).index_select(0, at)
        slopes = self._slopes(p, at)
        for step in range(self.steps):
            if step:
                mean.mul_(self.momentum).add_(slopes(before + torch.round(wish), step))
            wish = _moved(wish, mean, stride, budget, least)
        return torch.zeros_like(p.x).view(-1).index_copy_(0, at, wish).view_as(p.x)

    def _slopes(self, p: _Problem, at: Tensor) -> Callable[[Tensor, int], Tensor]:
        """Return what gives the gradient at some places for values there, and a step."""
        is_plain = not (self.noise or self.eot or self.between) and self.block < 2
        among = p.loss.among(p.x, at) if is_plain and isinstance(p.loss, SparseLoss) else None
        if among is not None:
            return lambda values, step: gradient(of_turn(among, step), values)
        protected = p.x.clone()

        def slopes(values: Tensor, step: int) -> Tensor:
            protected.view(-1).index_copy_(0, at, values)
            return self._slope(p, protected, step).reshape(-1).index_select(0, at)

        return slopes

    def _slope(self, p: _Problem, protected: Tensor, step: int) -> Tensor:
        """Return the gradient after one draw of every transform of `eot`, and of the noise."""
        loss = of_turn(p.loss, step) if asks_in_turn(self.eot) else p.loss
        if self.noise:
            lots = torch.rand(protected.shape, generator=p.rng)
            protected = protected + (2 * lots - 1) * (self.noise * p.budget)
        for name in self.eot:
            loss = TRANSFORMS[name](loss, p.rng)
        return _between(in_blocks(gradient(loss, protected), self.block), self.between)

    def _chosen(self, p: _Problem, mean: Tensor) -> Tensor:
        if self.rho >= 1:
            return p.foreground
        if self.mask == "random":
            lots = torch.rand(mean.shape, generator=p.rng).clamp_(min=1e-9)
            return top_k(lots, p.foreground & (mean != 0), self.rho)
        score = mean
        if self.mask == "low_gradient":  # what hardly has one ranks first; what has none, never
            score = torch.where(mean != 0, 1 / mean, 0.0)
        if not self.balanced:
            return top_k(score.abs(), p.foreground, self.rho)
        return top_pairs(-score, p.foreground, self.rho, self.region)


def _between(slope: Tensor, share: float) -> Tensor:
    """Return the gradient of volumes after each slice has taken a share from its neighbours."""
    if not share or slope.ndim < 5:
        return slope
    before = torch.cat([slope[:, :, :1], slope[:, :, :-1]], 2)
    after = torch.cat([slope[:, :, 1:], slope[:, :, -1:]], 2)
    return (1 - share) * slope + share / 2 * (before + after)


def _moved(shadow: Tensor, mean: Tensor, stride: Tensor, most: Tensor, least: Tensor) -> Tensor:
    """Return the shadow one stride against the sign of the mean, within least and most."""
    return torch.clamp(shadow - stride * mean.sign(), least, most)


def dense(*, steps: int = 10, step_size: float = 0.2, momentum: float = 0.9) -> Salm:
    """Return error-minimising noise over the whole foreground: SALM with rho = 1, a control."""
    return Salm(rho=1.0, steps=steps, step_size=step_size, momentum=momentum)
