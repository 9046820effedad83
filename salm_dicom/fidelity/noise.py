"""Noise and contrast, in squares of the source that hold one tissue and little else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.squares import SIDE_MM, Squares
from salm_dicom.fidelity.subject import Reading, Region, Subject
from salm_dicom.fidelity.tissues import tissues
from salm_dicom.volume import Booleans, Floats

# Homogeneous are squares of at most this multiple of the lower quartile of the variance. Others
# hold edges; the lowest alone would be those where noise happens to be low.
_QUARTILE, _MULTIPLE = 0.25, 2.0
# Fewer squares than this say nothing of noise: with 4 its SD is known within 5 %.
_FEWEST = 4
# Around an outlined region: what is nearer than the gap belongs to its edge.
_GAP_MM, _RING_MM = 2.0, 8.0
# Below this many SD of the noise there is no contrast to speak of.
_LEAST_CNR = 1.0


def noise(subject: Subject) -> Iterator[Reading]:
    """Yield by how many percent the noise of homogeneous squares changed, worst of the slices.

    The squares are chosen in the source, and the noise is pooled over those of a slice.
    """
    found = subject.squares
    found = found.taken(found.variance > 0)
    if len(found.index) < _FEWEST:
        raise Unmeasurable(f"fewer than {_FEWEST} squares of {SIDE_MM:g} mm are foreground only")
    found = _homogeneous(found)
    before, after = (np.bincount(found.index, v) for v in (found.variance, found.variance_after))
    enough = np.bincount(found.index) >= min(_FEWEST, len(found.index))
    changes = np.zeros(len(before))
    np.divide(after, before, out=changes, where=enough)
    changes = 100 * np.abs(np.sqrt(changes) - 1) * enough
    worst = int(changes.argmax())
    yield Reading(
        name="noise_sd", value=float(changes[worst]), unit="%",
        at=f"slice {worst + 1}" if changes[worst] else "",
    )  # fmt: skip


def contrast(subject: Subject) -> Iterator[Reading]:
    """Yield by how many percent the contrast of each outlined region to its surroundings changed.

    Without regions it is that of neighbouring tissues. Contrast is the difference of two means, in
    SD of the source's noise: the noise has a row of its own, so that each row has one cause.
    """
    if subject.regions:
        yield from _of_regions(subject)
    else:
        yield from _of_tissues(subject)


def is_homogeneous(variance: Floats) -> Booleans:
    """Return which squares hold noise and nothing else, of all squares' variances."""
    if not variance.size:
        return np.zeros(0, dtype=bool)
    return np.asarray(variance <= _MULTIPLE * np.quantile(variance, _QUARTILE))


def _homogeneous(found: Squares) -> Squares:
    return found.taken(is_homogeneous(found.variance))


def _of_tissues(subject: Subject) -> Iterator[Reading]:
    names, edges = tissues(subject)
    found = subject.squares
    which = np.searchsorted(edges, found.mean, side="right")
    pure = []
    for tissue, name in enumerate(names):
        own = found.taken(which == tissue)
        if len(own.index) >= _FEWEST:
            pure.append((name, _homogeneous(own)))
    changes = []
    for (one, low), (other, high) in pairwise(pure):
        before = float(high.mean.mean() - low.mean.mean())
        after = float(high.mean_after.mean() - low.mean_after.mean())
        sd = float(np.sqrt((low.variance.mean() + high.variance.mean()) / 2))
        if abs(before) > _LEAST_CNR * sd:
            changes.append((_percent(before, after), f"{one} and {other}"))
    if not changes:
        raise Unmeasurable("no two tissues stand out from the noise; outline lesions: --regions")
    value, at = max(changes)
    yield Reading(name="contrast", value=value, unit="%", where="neighbouring tissues", at=at)


def _of_regions(subject: Subject) -> Iterator[Reading]:
    unseen = []
    for region in subject.regions:
        (inside, inside_after), (around, around_after) = (
            _values(subject, where) for where in (region.where, _ring(subject, region))
        )
        if not inside.size or not around.size:
            unseen.append(region.name)
            continue
        before = float(inside.mean() - around.mean())
        after = float(inside_after.mean() - around_after.mean())
        if abs(before) <= _LEAST_CNR * float(around.std()):
            unseen.append(region.name)
            continue
        yield Reading(
            name="contrast", value=_percent(before, after), unit="%", where=f"region {region.name}"
        )
    if len(unseen) == len(subject.regions):
        raise Unmeasurable(f"no region stands out from the noise around it: {', '.join(unseen)}")


def _values(subject: Subject, where: Booleans) -> tuple[Floats, Floats]:
    """Return the modality values of some voxels, before and after."""
    before, after = [np.zeros(0)], [np.zeros(0)]
    for index in np.flatnonzero(where.any(axis=(1, 2))).tolist():
        before.append(subject.source_at(index)[where[index]].astype(np.float64))
        after.append(subject.protected_at(index)[where[index]].astype(np.float64))
    return np.concatenate(before), np.concatenate(after)


def _ring(subject: Subject, region: Region) -> Booleans:
    """Return the foreground around a region in its slices, but for all that is outlined."""
    ring = np.zeros_like(region.where)
    outlined = np.any([one.where for one in subject.regions], axis=0)
    for index in np.flatnonzero(region.where.any(axis=(1, 2))).tolist():
        near, far = (_grown(region.where[index], subject, mm) for mm in (_GAP_MM, _RING_MM))
        ring[index] = far & ~near & ~outlined[index] & subject.mask[index]
    return ring


def _grown(where: Booleans, subject: Subject, mm: float) -> Booleans:
    """Return a region of a slice with all that is within a square of `mm` around its voxels."""
    for axis, spacing in enumerate(subject.spacing_mm):
        steps = max(1, round(mm / spacing))
        padded = np.pad(where, [(steps, steps) if a == axis else (0, 0) for a in (0, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * steps + 1, axis=axis)
        where = np.asarray(windows.any(axis=-1))
    return where


def _percent(before: float, after: float) -> float:
    return 100 * abs(after - before) / abs(before)
