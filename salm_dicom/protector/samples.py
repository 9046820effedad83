"""Samples: slices of a volume, or all of it, as methods take them; and how many at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
