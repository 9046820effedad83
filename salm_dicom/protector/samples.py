"""Samples: slices of a volume, or all of it, as methods take them; which, and how many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.volume import Booleans

# Voxels that go through a method together, and numbers that a network gives for them; bounds memory
# whatever the length of a series.
VOXELS_AT_ONCE = 2**20
_VALUES_AT_ONCE = 2**20


def slices_at_once(shape: tuple[int, ...], values: int) -> int:
    """Return how many slices go through a method together: 4 of 512 x 512, more of smaller ones.

    Parameters
    ----------
    shape
        Ends in rows and columns.
    values
        That the surrogate gives for each slice.
    """
    return max(min(VOXELS_AT_ONCE // (shape[-2] * shape[-1]), _VALUES_AT_ONCE // values), 1)


def samples(values: NDArray[Any], extent: str) -> NDArray[Any]:
    """Return (slices, rows, columns) as (samples, 1, [slices,] rows, columns)."""
    return values[:, None] if extent == "slice" else values[None, None]


def per_slice(numbers: NDArray[Any], extent: str) -> NDArray[np.float32]:
    """Return one number for each slice, shaped to broadcast over its voxels."""
    found = numbers.astype(np.float32)
    return found[:, None, None, None] if extent == "slice" else found[None, None, :, None, None]


def chosen_slices(anatomy: Booleans, marked: Booleans | None, most: int) -> NDArray[np.int64]:
    """Return at most so many slices that stand for a series, evenly spread, in order.

    Parameters
    ----------
    anatomy
        Foreground, (slices, rows, columns); slices without are never chosen.
    marked
        Where a mask marks a class, same shape: two thirds of the slices show it if that many do.
    """
    count = len(anatomy)
    there = np.flatnonzero(anatomy.reshape(count, -1).any(axis=1))
    if marked is None:
        return _spread(there, most)
    shows = np.asarray(marked.reshape(count, -1).any(axis=1))[there]
    others = int(np.count_nonzero(~shows))
    with_mask = _spread(there[shows], max(-(-2 * most // 3), most - others))
    without = _spread(there[~shows], most - len(with_mask))
    return np.sort(np.concatenate([with_mask, without]))


def _spread(places: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of the places, evenly spread."""
    even = np.linspace(0, len(places) - 1, min(len(places), most))
    return np.asarray(places[np.unique(even.round().astype(int))])
