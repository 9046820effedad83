"""The budget: epsilon in its three units, top-k selection, and the one rounding to integers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
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


def places(mask: Tensor) -> Tensor:
    """Return the flat indices where a mask is True; numpy finds them faster than torch does."""
    return torch.from_numpy(np.flatnonzero(mask.numpy(force=True))).to(mask.device)


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
        int16, or int32 for a budget beyond it; shape of x (samples, 1, *spatial).
    """
    small = float(limits.budget.max()) <= torch.iinfo(torch.int16).max
    delta = torch.zeros(x.shape, dtype=torch.int16 if small else torch.int32)
    budget = limits.budget.expand(x.shape)
    for sample in range(len(x)):
        where = places((shadow[sample] != 0).logical_and_(foreground[sample]))
        wish, before = (t[sample].reshape(-1)[where].float() for t in (shadow, x))
        most = budget[sample].reshape(-1)[where]
        change = torch.round(torch.clamp(wish, -most, most))
        change = torch.clamp(before + change, limits.low, limits.high) - before
        if limits.padding is not None:
            after = before + change
            change[(after >= limits.padding[0]) & (after <= limits.padding[1])] = 0
        allowed = quota(foreground[sample], rho)
        if int(torch.count_nonzero(change)) > allowed:
            strong = _largest(torch.where(change != 0, wish.abs(), 0.0), allowed)
            change = torch.where(strong, change, 0.0)
        if zero_mean:
            area = x.shape[-2] * x.shape[-1]
            change = _balanced(change, wish.abs(), torch.div(where, area, rounding_mode="floor"))
        delta[sample].view(-1)[where] = change.to(delta.dtype)
    return delta


def _balanced(change: Tensor, strength: Tensor, slice_of: Tensor) -> Tensor:
    """Shrink the weakest changes of the prevailing sign until each slice adds up to 0."""
    slices = int(slice_of[-1]) + 1 if len(slice_of) else 0
    sums = torch.zeros(slices, dtype=torch.float64).index_add_(0, slice_of, change.double())
    for index in torch.nonzero(sums)[:, 0].tolist():
        surplus = float(sums[index])
        sign = 1.0 if surplus > 0 else -1.0
        where = places((slice_of == index) & (change * sign > 0))
        # each gives at least 1, so no more than `surplus` of them are needed
        count = min(len(where), round(abs(surplus)))
        where = where[torch.topk(strength[where], count, largest=False).indices]
        amount = change[where] * sign
        before = torch.cumsum(amount, 0) - amount
        taken = torch.minimum(amount, torch.clamp(abs(surplus) - before, min=0))
        change[where] = (amount - taken) * sign
    return change


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
