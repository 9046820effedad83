"""What changed in each slice, in sums that one look at the voxels gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from salm_dicom.fidelity.tissues import reaches
from salm_dicom.volume import Booleans, Integers

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
    outside
        Voxels outside the foreground that changed.
    inside
        Sum of the changes of the foreground.
    tissues
        The same of all tissues from each edge between two on, see `Subject.tissues`.
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
    outside: int = 0
    inside: int = 0
    tissues: tuple[int, ...] = ()
    squares: float = 0.0
    shown_squares: float = 0.0
    clipped: int = 0


def slice_change(subject: Subject, index: int) -> SliceChange:
    """Return what changed in a slice; only voxels that did are looked at."""
    mask, before, after = (
        each[index] for each in (subject.mask, subject.pixels.values, subject.after)
    )
    foreground = int(np.count_nonzero(mask))
    differs = before != after
    changed = int(np.count_nonzero(differs))
    if not changed:
        return SliceChange(foreground=foreground)
    if changed == np.count_nonzero(differs[subject.box]):  # to list places takes longest of all
        mask, before, after, differs = (
            each[subject.box] for each in (mask, before, after, differs)
        )
    places = np.flatnonzero(differs)
    ends = sorted({*subject.pixels.representable, *subject.extremes})
    old, new, inside = (each.reshape(-1)[places] for each in (before, after, mask))
    edges = subject.edges_of(index)
    return _change(subject, index, foreground, old, new, inside, edges, ends)


def _change(
    subject: Subject,
    index: int,
    foreground: int,
    old: Integers,
    new: Integers,
    inside: Booleans,
    edges: list[tuple[bool, int]],
    ends: list[int],
) -> SliceChange:
    """Return what changed in a slice; arrays of (changed voxels,)."""
    change = new.astype(np.int64) - old
    apart = subject.shown(index, new) - subject.shown(index, old)
    counted = change * inside
    return SliceChange(
        foreground=foreground,
        changed=change.size,
        largest=max(int(change.max()), -int(change.min())),
        outside=change.size - int(np.count_nonzero(inside)),
        inside=int(counted.sum()),
        tissues=tuple(int(counted[reaches(old, edge)].sum()) for edge in edges),
        squares=float(np.square(change, dtype=np.float64).sum()),
        shown_squares=float(np.dot(apart, apart)),
        clipped=_arrived(old, new, ends),
    )


def _arrived(old: Integers, new: Integers, ends: list[int]) -> int:
    """Return how many values are now, and were not, one of the ends."""
    least, most = int(new.min()), int(new.max())
    near = [end for end in ends if least <= end <= most]
    if not near:
        return 0
    return int(np.count_nonzero(np.isin(new, near) & ~np.isin(old, ends)))
