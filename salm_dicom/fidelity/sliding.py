"""Sums over windows that slide over a slice, in few passes and as few bits as hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Windows stand this share of their side apart.
_STEP = 1 / 8


def kind_for(most: int) -> np.dtype[Any]:
    """Return the least signed type of two bytes or more for numbers up to `most` in size."""
    return np.promote_types(np.int16, np.min_scalar_type(-most - 1))


def coarse(values: NDArray[Any], factor: int, kind: np.dtype[Any]) -> NDArray[Any]:
    """Return sums over squares of 2 x 2 voxels, or with a factor of 1 the values, as `kind`."""
    if factor == 1:
        return values.astype(kind, copy=False)
    rows, columns = (size % 2 for size in values.shape)
    even = np.pad(values, ((0, rows), (0, columns))) if rows or columns else values
    pairs = np.add(even[::2], even[1::2], dtype=kind)
    return np.asarray(pairs[:, ::2] + pairs[:, 1::2])


def sliding_sums(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Return the sum over each window of `rows` x `columns`; windows end at the edge of the values.

    Windows stand around every value, large ones around every second, third, ... one. `values` need
    a type that holds the sums.
    """
    down, across = values.shape
    top, left = rows // 2, columns // 2
    padded = np.zeros((down + rows - 1, across + columns - 1), dtype=values.dtype)
    padded[top : top + down, left : left + across] = values
    width = padded.shape[1]
    found = _running(padded.reshape(-1), rows, width)[: down * width].reshape(down, width)
    found = found[:: max(1, int(_STEP * rows))]
    along = _running(found.reshape(-1), columns, 1)  # windows that run on into the next row go
    shape, apart = (len(found), across), found.itemsize
    return np.ndarray(shape, along.dtype, along, 0, (width * apart, apart))[
        :, :: max(1, int(_STEP * columns))
    ]


def _running(values: NDArray[Any], side: int, apart: int) -> NDArray[Any]:
    """Return sums of `side` values that lie so far apart: those of 1, 2, 4, ... are added up."""
    count = len(values) - (side - 1) * apart
    total: NDArray[Any] | None = None
    power, width, taken = values, 1, 0
    while True:
        if side & width:
            own = power[taken * apart :][:count]
            total = own if total is None else total + own
            taken += width
        if 2 * width > side:
            break
        power = power[: -width * apart] + power[width * apart :]
        width *= 2
    return values if total is None else total
