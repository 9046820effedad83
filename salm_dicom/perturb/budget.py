"""The budget: epsilon in its three units, top-k selection, and the one rounding to integers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from salm_dicom.errors import PlanError

_EPSILON = re.compile(r"\s*(?P<number>[0-9./]+)\s*(?P<unit>HU|modality|stored)?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Epsilon:
    """Largest change of a voxel, in one of three units.

    Parameters
    ----------
    amount
        Positive number.
    unit
        `fraction` of the intensity range, `modality` (HU for CT), or `stored` units.
    """

    amount: float
    unit: str = "fraction"

    @classmethod
    def parse(cls, text: str) -> Epsilon:
        """Return what `4/255`, `0.0157`, `6HU`, `6 modality` or `6 stored` mean."""
        found = _EPSILON.fullmatch(text)
        try:
            amount = float(Fraction(found["number"])) if found else 0.0
        except (ValueError, ZeroDivisionError):
            amount = 0.0
        if not found or not amount > 0:
            raise PlanError(
                f"epsilon {text!r} is not understood; write a fraction of the intensity range "
                "(4/255), modality units (6HU) or stored units ('6 stored')"
            )
        unit = (found["unit"] or "fraction").lower()
        if unit == "fraction" and amount >= 1:
            raise PlanError(f"epsilon {text!r} is the whole intensity range or more; write 4/255")
        return cls(amount, "modality" if unit == "hu" else unit)

    def stored_units(self, width: float, slope: float) -> int:
        """Return the budget in stored units, rounded down; the error names the smallest epsilon.

        Parameters
        ----------
        width
            hi - lo of the intensity range, modality units.
        slope
            Modality units for each stored unit.
        """
        step = abs(slope)
        amount = {
            "fraction": self.amount * width / step,
            "modality": self.amount / step,
            "stored": self.amount,
        }[self.unit]
        whole = math.floor(amount + 1e-9)
        if whole < 1:
            raise PlanError(
                f"the budget is {amount:.3g} stored units, less than one; one stored unit is "
                f"{step:g} modality units, epsilon {step / width:.3g} of the intensity range"
            )
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What each voxel may become; tensors broadcast to the shape of x.

    Parameters
    ----------
    budget
        Largest absolute change in stored units, whole numbers, shape (samples, 1, ...).
    low, high
        Smallest and largest stored value allowed after the change.
    padding
        First and last stored value that mean "no pixel here", or None.
    """

    budget: Tensor
    low: float
    high: float
    padding: tuple[int, int] | None = None


def top_k(score: Tensor, foreground: Tensor, rho: float) -> Tensor:
    """Return True on the voxels with the highest scores, for each sample.

    At most ceil(rho * foreground voxels); voxels with score 0 are never taken; ties go to the
    lower index, so the result does not depend on the machine.

    Parameters
    ----------
    score
        Not negative, shape (samples, 1, *spatial).
    foreground
        True where a change is allowed, same shape.
    rho
        Share of the foreground, 0 to 1.
    """
    chosen = torch.zeros_like(foreground)
    for sample in range(score.shape[0]):
        inside = foreground[sample].reshape(-1)
        flat = torch.where(inside, score[sample].reshape(-1), 0.0)
        chosen[sample] = _largest(flat, quota(inside, rho)).reshape(foreground[sample].shape)
    return chosen


def quota(foreground: Tensor, rho: float) -> int:
    """Return how many voxels of one sample may change: ceil(rho * foreground voxels)."""
    return math.ceil(rho * int(foreground.sum()) - 1e-9)


def to_integers(
    shadow: Tensor, x: Tensor, foreground: Tensor, limits: Limits, *, rho: float, zero_mean: bool
) -> Tensor:
    """Return the integer delta that a float shadow stands for; the only rounding there is.

    Within the budget, 0 outside the foreground, at most ceil(rho * foreground) voxels of each
    sample, x + delta inside [low, high] and never in the padding. With `zero_mean` the changes of
    every slice add up to 0, so that no region is brightened or darkened as a whole.

    Returns
    -------
    Tensor
        int32, shape of x (samples, 1, *spatial).
    """
    delta = torch.round(torch.minimum(torch.maximum(shadow, -limits.budget), limits.budget))
    delta = torch.where(foreground, delta, 0.0)
    delta = torch.clamp(x + delta, limits.low, limits.high) - x
    if limits.padding is not None:
        after = x + delta
        first, last = limits.padding
        delta = torch.where((after >= first) & (after <= last), 0.0, delta)
    delta = torch.where(foreground, delta, 0.0)
    delta = _sparse(delta, shadow, foreground, rho)
    if zero_mean:
        delta = _balanced(delta, shadow)
    return delta.to(torch.int32)


def _sparse(delta: Tensor, shadow: Tensor, foreground: Tensor, rho: float) -> Tensor:
    """Drop the weakest changes of a sample that has more than its quota."""
    for sample in range(delta.shape[0]):
        changed = delta[sample].reshape(-1) != 0
        allowed = quota(foreground[sample], rho)
        if int(changed.sum()) > allowed:
            strength = torch.where(changed, shadow[sample].reshape(-1).abs(), 0.0)
            kept = _largest(strength, allowed).reshape(delta[sample].shape)
            delta[sample] = torch.where(kept, delta[sample], 0.0)
    return delta


def _balanced(delta: Tensor, shadow: Tensor) -> Tensor:
    """Shrink the weakest changes of the prevailing sign until each slice adds up to 0."""
    rows, columns = delta.shape[-2:]
    slices, strength = delta.reshape(-1, rows * columns), shadow.abs().reshape(-1, rows * columns)
    for index, surplus in enumerate(slices.sum(1).tolist()):
        if surplus == 0:
            continue
        sign = 1.0 if surplus > 0 else -1.0
        where = torch.nonzero(slices[index] * sign > 0)[:, 0]
        where = where[torch.argsort(strength[index, where], stable=True)]
        amount = slices[index, where] * sign
        before = torch.cumsum(amount, 0) - amount
        taken = torch.minimum(amount, torch.clamp(abs(surplus) - before, min=0))
        slices[index, where] = (amount - taken) * sign
    return slices.reshape(delta.shape)


def _largest(flat: Tensor, count: int) -> Tensor:
    """Return True on the `count` largest positive values; ties go to the lower index."""
    positive = flat > 0
    if count <= 0:
        return torch.zeros_like(positive)
    if int(positive.sum()) <= count:
        return positive
    least = torch.topk(flat, count, sorted=False).values.min()
    above = flat > least
    ties = flat == least
    return above | (ties & (torch.cumsum(ties, 0) <= count - above.sum()))
