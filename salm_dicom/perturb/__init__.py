"""Methods: tensors in, tensors out. METHODS lists them; `perturb` runs one within the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Epsilon, Limits, quota, to_integers, top_k
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.random import Random
from salm_dicom.perturb.salm import Salm, dense

__all__ = [
    "METHODS",
    "Epsilon",
    "Limits",
    "Loss",
    "Method",
    "Random",
    "Salm",
    "Settings",
    "dense",
    "perturb",
    "quota",
    "to_integers",
    "top_k",
]


class Method(Protocol):
    """How a perturbation is found.

    A method returns its wish as floats in stored units; it may be out of budget. The framework
    (`perturb`) rounds it and enforces budget, foreground, sparsity and range, for every method.
    Everything random comes from `rng`; the same inputs give the same result.
    """

    needs_gradient: ClassVar[bool]

    @property
    def rho(self) -> float:
        """Largest share of foreground voxels of a sample that may change."""

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits,
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the shadow of a perturbation.

        Parameters
        ----------
        x
            Stored values, shape (samples, 1, [slices,] rows, columns); float32 for methods that
            need a gradient, integers as they are for others.
        loss
            Sum over samples of the surrogate's loss at stored values; methods that need no
            gradient never call it.
        foreground
            True where a change is allowed, shape of x.
        limits
            Budget and range.
        rng
            The only source of randomness.
        start
            Shadow of an earlier round, or None.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a plan says about its method; each method takes what it knows."""

    rho: float
    steps: int
    step_size: float
    schedule: str
    zero_mean: bool


def _salm(s: Settings) -> Method:
    return Salm(
        rho=s.rho,
        steps=s.steps,
        step_size=s.step_size,
        schedule=s.schedule,
        balanced=s.zero_mean,
    )


METHODS: dict[str, Callable[[Settings], Method]] = {
    "salm": _salm,
    "dense": lambda s: dense(steps=s.steps, step_size=s.step_size),
    "random": lambda s: Random(rho=s.rho),
}


def perturb(
    method: Method,
    x: Tensor,
    loss: Loss,
    foreground: Tensor,
    limits: Limits,
    rng: torch.Generator,
    *,
    zero_mean: bool = True,
) -> Tensor:
    """Return the integer perturbation that a method finds, within budget and mask whatever it did.

    Returns
    -------
    Tensor
        Integer stored units, shape of x; see `budget.to_integers` for what holds.
    """
    shadow = method(x, loss, foreground, limits, rng)
    return to_integers(shadow, x, foreground, limits, rho=method.rho, zero_mean=zero_mean)
