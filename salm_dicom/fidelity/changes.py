"""What changed in each slice, in sums that one look at the voxels gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salm_dicom.volume import Integers

if TYPE_CHECKING:
    from salm_dicom.fidelity.subject import Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceChange:
    """Sums over the voxels of one slice; stored units unless said otherwise.

    Parameters
    ----------
    foreground, changed
        Voxels of the foreground, and voxels that changed, wherever they are.
    largest
        Largest absolute change.
    inside
        Sum of the changes of the foreground.
    squares
        Sum of the squared changes.
    shown_squares
        The same of what the intensity range shows, 0 to 1.
    clipped
        Voxels that came to lie at an end of the range, see `clipping`.
    """

    foreground: int
    changed: int = 0
    largest: int = 0
    inside: int = 0
    squares: float = 0.0
    shown_squares: float = 0.0
    clipped: int = 0


def slice_changes(subject: Subject) -> Iterator[SliceChange]:
    """Yield what changed in each slice; only voxels that did are looked at."""
    ends = np.array(sorted({*subject.pixels.representable, *subject.extremes}))
    for index in range(len(subject)):
        inside = subject.mask[index].reshape(-1)
        foreground = int(np.count_nonzero(inside))
        before, after = (
            values[index].reshape(-1) for values in (subject.pixels.values, subject.after)
        )
        places = np.flatnonzero(before != after)
        if not places.size:
            yield SliceChange(foreground=foreground)
            continue
        old, new = before[places], after[places]
        change = new.astype(np.int64) - old
        low, high = (subject.shown(index, values) for values in (old, new))
        apart = np.subtract(high, low)
        yield SliceChange(
            foreground=foreground,
            changed=places.size,
            largest=max(int(change.max()), -int(change.min())),
            inside=int(change[inside[places]].sum()),
            squares=float(np.square(change, dtype=np.float64).sum()),
            shown_squares=float(np.dot(apart, apart)),
            clipped=_arrived(old, new, ends),
        )


def _arrived(old: Integers, new: Integers, ends: Integers) -> int:
    """Return how many values are now, and were not, one of the ends."""
    at_end = np.zeros(old.shape, dtype=bool)
    for end in ends.tolist():
        at_end |= (new == end) & (old != end)
    return int(np.count_nonzero(at_end & ~np.isin(old, ends))) if at_end.any() else 0
