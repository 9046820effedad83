"""The budget: epsilon in its three units, and the one rounding to integers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import PlanError

Floats = NDArray[np.float32]
# Array or tensor.
A = TypeVar("A")
B = TypeVar("B")

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
        except (ValueError, ZeroDivisionError, OverflowError):
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
class Limits(Generic[A]):
    """What each voxel may become; the budget broadcasts to the shape of x.

    Parameters
    ----------
    budget
        Largest absolute change in stored units, whole numbers, shape (samples, 1, ...); 0 where
        nothing may change, though it counts as foreground.
    low, high
        Smallest and largest stored value allowed after the change.
    padding
        First and last stored value that mean "no pixel here", or None.
    """

    budget: A
    low: float
    high: float
    padding: tuple[int, int] | None = None

    def with_budget(self, budget: B) -> Limits[B]:
        """Return the same range with another budget, or with the same as array or tensor."""
        return Limits(budget=budget, low=self.low, high=self.high, padding=self.padding)


def quota(foreground: NDArray[np.bool_], rho: float) -> int:
    """Return how many voxels of one sample may change: ceil(rho * foreground voxels)."""
    return math.ceil(rho * int(np.count_nonzero(foreground)) - 1e-9)


def to_integers(
    shadow: NDArray[Any],
    x: NDArray[Any],
    foreground: NDArray[np.bool_],
    limits: Limits[NDArray[Any]],
    *,
    rho: float,
    zero_mean: bool,
    region: int | None = None,
) -> NDArray[np.signedinteger[Any]]:
    """Return the integer delta that a shadow stands for; the only rounding there is.

    Within the budget, 0 outside the foreground, at most ceil(rho * foreground) voxels of each
    sample, x + delta inside [low, high] and never in the padding. With `zero_mean` the changes of
    every region add up to 0, so that none is brightened or darkened as a whole. Only the
    voxels that change are looked at.

    Parameters
    ----------
    region
        Edge in voxels of the squares, within a slice, that count as a region; None: whole slices.

    Returns
    -------
    NDArray
        int16, or int32 for a budget beyond it; shape of x: (samples, 1, [slices,] rows, columns).
    """
    budget = np.broadcast_to(limits.budget, (len(x), *limits.budget.shape[1:]))
    kind = np.int16 if budget.max() <= np.iinfo(np.int16).max else np.int32
    delta = np.zeros(x.shape, dtype=kind)
    arrays = shadow, x, foreground
    for out, most, wished, stored, inside in zip(delta, budget, *arrays, strict=True):
        where = np.flatnonzero((wished != 0) & inside)
        wish = wished.reshape(-1)[where].astype(np.float32)
        before = stored.reshape(-1)[where].astype(np.float32)
        most = most if most.size == 1 else np.broadcast_to(most, out.shape).reshape(-1)[where]
        most = most.reshape(-1)
        change = np.rint(np.clip(wish, -most, most))
        change = np.clip(before + change, limits.low, limits.high) - before
        _drop_padded(change, before, limits.padding)
        allowed = quota(inside, rho)
        if np.count_nonzero(change) > allowed:
            change[~_strongest(np.where(change != 0, np.abs(wish), 0), allowed)] = 0
        if zero_mean:
            region_of = _regions(where, out.shape, region)
            _balance(change, np.abs(wish), region_of)
            while _drop_padded(change, before, limits.padding):
                _balance(change, np.abs(wish), region_of)
        out.reshape(-1)[where] = change.astype(kind)
    return delta


def _regions(
    where: NDArray[np.intp], shape: tuple[int, ...], edge: int | None
) -> NDArray[np.intp] | None:
    """Return the region of each voxel of a sample, (1, [slices,] rows, columns); None: all in one.

    Parameters
    ----------
    where
        Flat places of the voxels.
    """
    rows, columns = shape[-2:]
    is_slice = len(shape) == 3
    if edge is None:
        return None if is_slice else where // (rows * columns)
    plane = _plane_of_regions(rows, columns, edge)
    if is_slice:
        return plane[where]
    slice_, place = np.divmod(where, rows * columns)
    return slice_ * (int(plane[-1]) + 1) + plane[place]


@lru_cache(maxsize=4)
def _plane_of_regions(rows: int, columns: int, edge: int) -> NDArray[np.intp]:
    """Return the region of each voxel of a slice, flat, from 0 on."""
    row, column = np.arange(rows) // edge, np.arange(columns) // edge
    plane = (row[:, None] * -(-columns // edge) + column).reshape(-1)
    plane.flags.writeable = False
    return plane


def _balance(change: Floats, strength: Floats, region_of: NDArray[np.intp] | None) -> None:
    """Shrink, in place, the weakest changes of the prevailing sign until a region adds up to 0.

    `region_of` tells the region of each change; None when all lie in one.
    """
    if region_of is None:
        sums = change.sum(dtype=np.float64, keepdims=True)
        region_of = np.zeros(change.shape, dtype=np.intp)
    else:
        sums = np.bincount(region_of, weights=change)
    if not sums.any():
        return
    where = np.flatnonzero(change * sums[region_of] > 0)
    if len(sums) == 1:  # each gives at least 1, so no more than the surplus of them are needed
        spared = len(where) - min(len(where), round(abs(float(sums[0]))))
        where = where[~_strongest(strength[where], spared)]
    where = where[np.lexsort((strength[where], region_of[where]))]
    amount, region = np.abs(change[where]), region_of[where]
    total = np.cumsum(amount, dtype=np.float64)
    starts = np.flatnonzero(np.diff(region, prepend=-1))
    before = (
        total
        - amount
        - np.repeat(total[starts] - amount[starts], np.diff(starts, append=len(region)))
    )
    given = np.minimum(amount, np.clip(np.abs(sums)[region] - before, 0, None))
    change[where] -= np.sign(change[where]) * given


def _drop_padded(change: Floats, before: Floats, padding: tuple[int, int] | None) -> bool:
    """Undo, in place, changes that end in the padding; return whether there were any."""
    if padding is None:
        return False
    after = before + change
    padded = (after >= padding[0]) & (after <= padding[1]) & (change != 0)
    change[padded] = 0
    return bool(padded.any())


def _strongest(strength: Floats, count: int) -> NDArray[np.bool_]:
    """Return True on the `count` largest values; ties go to the lower index."""
    if count <= 0:
        return np.zeros(strength.shape, dtype=bool)
    if count >= len(strength):
        return np.ones(strength.shape, dtype=bool)
    least = np.partition(strength, len(strength) - count)[len(strength) - count]
    above, ties = strength > least, strength == least
    kept: NDArray[np.bool_] = above | (ties & (np.cumsum(ties) <= count - above.sum()))
    return kept
