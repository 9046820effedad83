"""Methods: tensors in, tensors out. METHODS lists them; `perturb` runs one within the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Epsilon, Limits, quota, to_integers, top_k
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.patterns import Autoregressive, Patches, Texture
from salm_dicom.perturb.random import Random, Uniform
from salm_dicom.perturb.robust import EOT, blur, half_and_back
from salm_dicom.perturb.salm import Salm, dense

__all__ = [
    "EOT",
    "METHODS",
    "Autoregressive",
    "Epsilon",
    "Limits",
    "Loss",
    "Method",
    "Patches",
    "Random",
    "Salm",
    "Settings",
    "Texture",
    "Uniform",
    "blur",
    "dense",
    "half_and_back",
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
    # Draws are the same for all samples of a label: `rng` is seeded by it.
    class_wise: ClassVar[bool]

    @property
    def label_shift(self) -> int:
        """0: `loss` is that of the sample's label; 1: of the next class, on a clean surrogate."""

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
    momentum: float = 0.5
    eot: tuple[str, ...] = ()
    block: int = 1


def _salm(s: Settings) -> Salm:
    return Salm(
        rho=s.rho,
        steps=s.steps,
        step_size=s.step_size,
        momentum=s.momentum,
        schedule=s.schedule,
        balanced=s.zero_mean,
        eot=s.eot,
        block=s.block,
    )


METHODS: dict[str, Callable[[Settings], Method]] = {
    "salm": _salm,
    "dense": lambda s: replace(_salm(s), rho=1.0),
    "random_mask": lambda s: replace(_salm(s), mask="random"),
    "low_gradient": lambda s: replace(_salm(s), mask="low_gradient"),
    "targeted": lambda s: replace(_salm(s), label_shift=1),
    "patches": lambda s: Patches(),
    "texture": lambda s: Texture(rho=s.rho, cell=s.block),
    "autoregressive": lambda s: Autoregressive(),
    "random": lambda s: Random(rho=s.rho),
    "uniform": lambda s: Uniform(),
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
