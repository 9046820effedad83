"""Squares of a slice that are all foreground, with mean and variance before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.volume import Booleans, Floats, Integers

if TYPE_CHECKING:
    from salm_dicom.fidelity.subject import Subject

T = TypeVar("T", bound=np.generic)

# Side of a square, and the fewest voxels on it.
SIDE_MM, _SIDE = 8.0, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Squares:
    """Squares that are all foreground, arrays of (squares,): modality values and their square."""

    index: NDArray[np.intp]
    mean: Floats
    mean_after: Floats
    variance: Floats
    variance_after: Floats

    def taken(self, which: Booleans) -> Squares:
        """Return some of them."""
        return Squares(
            index=self.index[which],
            mean=self.mean[which],
            mean_after=self.mean_after[which],
            variance=self.variance[which],
            variance_after=self.variance_after[which],
        )


def squares(subject: Subject) -> Squares:
    """Return the squares of all slices; sums of stored values are exact."""
    parts = subject.of_slices(squares_of)
    mean, variance, mean_after, variance_after = np.concatenate(parts, axis=1)
    return Squares(
        index=np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts]),
        mean=mean,
        mean_after=mean_after,
        variance=variance,
        variance_after=variance_after,
    )


def squares_of(subject: Subject, index: int) -> Floats:
    """Return those of a slice: mean, variance and both after the change, (4, squares)."""
    rows, columns = (max(_SIDE, round(SIDE_MM / mm)) for mm in subject.spacing_mm)
    pixels, (least, most) = subject.pixels, subject.extremes
    change = subject.change_of(index)
    # padding lies further away, but in no square of foreground
    furthest = most - least + change.largest
    kind = np.int32 if rows * furthest**2 < 1 << 31 else np.int64
    full = _all(subject.mask[index][subject.box], rows, columns)
    found = []
    for values in (pixels.values, subject.after) if change.changed else (pixels.values,):
        above = values[index][subject.box].astype(kind)
        above -= least
        mean = _sums(above, rows, columns)[full] / (rows * columns)
        square = _sums(np.square(above, out=above), rows, columns)[full] / (rows * columns)
        found += [
            pixels.slope[index] * (mean + least) + pixels.intercept[index],
            pixels.slope[index] ** 2 * (square - mean**2),
        ]
    return np.stack(found if change.changed else found * 2)


def tiled(values: NDArray[T], rows: int, columns: int) -> NDArray[T]:
    """Return the squares that fit, (squares, voxels of one)."""
    down, across = values.shape[0] // rows, values.shape[1] // columns
    fitting = values[: down * rows, : across * columns].reshape(down, rows, across, columns)
    return fitting.swapaxes(1, 2).reshape(down * across, rows * columns)


def _rows(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Return the squares that fit, (rows of squares, rows of one, columns of all)."""
    down, across = values.shape[0] // rows, values.shape[1] // columns
    return values[: down * rows, : across * columns].reshape(down, rows, across * columns)


def _all(mask: Booleans, rows: int, columns: int) -> Booleans:
    """Return which squares are all True, (squares,)."""
    return np.asarray(_rows(mask, rows, columns).all(axis=1).reshape(-1, columns).all(axis=1))


def _sums(values: Integers, rows: int, columns: int) -> Floats:
    """Return the sum of each square, (squares,), exact below 2^53; whole rows first."""
    apart = _rows(values, rows, columns)
    total = apart[:, 0].copy()
    for row in range(1, rows):  # several times as fast as a sum along that axis
        total += apart[:, row]
    return np.asarray(total.reshape(-1, columns).astype(np.float64) @ np.ones(columns))
