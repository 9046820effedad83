"""Shift of means, where a reader would look: windows of 10 and 20 mm, tissues, outlined regions.

The mean of a slice can stay while every organ in it moves. A window that slides over the slice sees
that without knowing any organ; a slice is looked at by itself, for the mean over several slices is
never further from 0 than the mean of the worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.subject import Reading, Region, Subject
from salm_dicom.fidelity.tissues import tissues
from salm_dicom.volume import Booleans, Floats, Integers

# Sides of the sliding windows: the smallest lesion that is measured, and a piece of an organ.
WINDOWS_MM = {10.0: "small_window_shift", 20.0: "window_shift"}
# A window counts where foreground fills at least this share of it.
_FILLED = 0.5
# Windows stand this share of their side apart.
_STEP = 1 / 8
# Windows of at least so many voxels are counted in cells of 2 x 2: four times as fast.
_COARSEN = 8


def shifts(subject: Subject) -> Iterator[Reading]:
    """Yield the largest shift of a mean over windows, tissues, slices and outlined regions.

    In HU for CT. Otherwise in percent of the intensity range, and for PET and scintigraphy in
    percent of the mean that the region itself has in the source.

    References
    ----------
    Eisenhauer et al., *RECIST 1.1*, European Journal of Cancer 45 (2009): measurable from 10 mm.
    """
    if not subject.mask.any():
        raise Unmeasurable("no foreground was found")
    yield from _of_windows(subject)
    yield _of_tissues(subject)
    yield _of_slices(subject)
    yield from (_of_region(subject, region) for region in subject.regions)


def _of_windows(subject: Subject) -> Iterator[Reading]:
    worst = dict.fromkeys(WINDOWS_MM, (0.0, ""))
    sides = {mm: [max(1, round(mm / spacing)) for spacing in subject.spacing_mm] for mm in worst}
    factor = 2 if min(sides[min(WINDOWS_MM)]) >= _COARSEN else 1
    for index in subject.changed():
        inside = subject.mask[index][subject.box]
        found = [
            _integral(_coarse(values, factor))
            for values in (inside, subject.change_at(index, subject.box) * inside)
        ]
        if subject.is_uptake:
            own = subject.source_at(index, subject.box) * inside
            found.append(_integral(_coarse(own.astype(np.float64), factor)))
        for mm in worst:
            cells = [max(1, round(side / factor)) for side in sides[mm]]
            counts, shifts, *before = (_sums(one, cells) for one in found)
            counts = np.maximum(counts, 1) * (counts >= _FILLED * factor**2 * np.prod(cells))
            means = np.divide(shifts, counts, out=np.zeros(counts.shape), where=counts > 0)
            scale = _scale(subject, index)
            if before:
                means = _relative(means * scale * np.maximum(counts, 1), before[0])
                scale = 1.0
            most = max(float(means.max(initial=0.0)), -float(means.min(initial=0.0))) * scale
            if most > worst[mm][0]:
                worst[mm] = most, f"slice {index + 1}"
    for mm, (value, at) in worst.items():
        yield Reading(
            name=WINDOWS_MM[mm], value=value, unit=subject.shift_unit, where=f"{mm:g} mm window",
            at=at,
        )  # fmt: skip


def _coarse(values: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return sums over squares of 2 x 2 voxels, or the values themselves."""
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    if factor == 1:
        return values.astype(kind)
    rows, columns = (size % 2 for size in values.shape)
    even = np.pad(values, ((0, rows), (0, columns))) if rows or columns else values
    even = even.view(np.uint8) if even.dtype == bool else even
    pairs = even[::2] + even[1::2]
    return np.asarray((pairs[:, ::2] + pairs[:, 1::2]).astype(kind))


def _integral(values: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of all that lies above and to the left of each corner between cells."""
    total = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=values.dtype)
    np.cumsum(values, axis=1, out=total[1:, 1:])
    for row in range(1, len(total)):  # twice as fast as a second cumsum
        np.add(total[row], total[row - 1], out=total[row])
    return total


def _sums(integral: NDArray[Any], sides: list[int]) -> NDArray[Any]:
    """Return the sum over each window from an integral image; windows end at the image's edge."""
    for axis, side in enumerate(sides):
        size = integral.shape[axis] - 1
        first = np.arange(-(side // 2), size - side // 2, max(1, int(_STEP * side)))
        start, stop = np.clip(first, 0, size), np.clip(first + side, 0, size)
        integral = integral.take(stop, axis=axis) - integral.take(start, axis=axis)
    return integral


def _of_tissues(subject: Subject) -> Reading:
    names, edges = tissues(subject)
    # a tissue counts where it has the area of one of the smaller windows
    least = min(WINDOWS_MM) ** 2 / (subject.spacing_mm[0] * subject.spacing_mm[1])
    worst, where = 0.0, ""
    for index in subject.changed():
        inside = subject.mask[index][subject.box]
        values = subject.source_at(index, subject.box)[inside]
        tissue = np.searchsorted(edges, values, side="right")
        change = subject.change_at(index, subject.box)[inside]
        counts = np.bincount(tissue, minlength=len(names))
        means = np.bincount(tissue, change, minlength=len(names)) / np.maximum(counts, 1)
        if subject.is_uptake:
            own = np.bincount(tissue, values, minlength=len(names)) / np.maximum(counts, 1)
            shift = np.abs(_relative(means * subject.pixels.slope[index], own))
        else:
            shift = np.abs(means) * _scale(subject, index)
        shift *= counts >= least
        if shift.max() > worst:
            worst = float(shift.max())
            where = f"{names[int(shift.argmax())]}, slice {index + 1}"
    return Reading(name="tissue_shift", value=worst, unit=subject.shift_unit, at=where)


def _of_slices(subject: Subject) -> Reading:
    """Return the largest shift of the mean of all foreground of a slice."""
    worst, where = 0.0, ""
    for index in subject.changed():
        inside = subject.mask[index]
        if not inside.any():
            continue
        shift = abs(float(subject.change_at(index)[inside].mean())) * _scale(subject, index)
        if subject.is_uptake:
            own = float(subject.source_at(index)[inside].mean(dtype=np.float64))
            shift = float(_relative(shift, np.array(own)))
        if shift > worst:
            worst, where = shift, f"slice {index + 1}"
    return Reading(name="slice_shift", value=worst, unit=subject.shift_unit, at=where)


def _of_region(subject: Subject, region: Region) -> Reading:
    """Return the shift of the mean of an outlined region, over all its slices."""
    slices = np.flatnonzero(region.where.any(axis=(1, 2))).tolist()
    if not slices:
        raise Unmeasurable(f"region {region.name} has no voxel in the volume")
    where = region.where[slices]
    before = _mean(np.stack([subject.source_at(i) for i in slices]), where)
    after = _mean(np.stack([subject.protected_at(i) for i in slices]), where)
    shift = abs(after - before)
    if subject.is_uptake:
        shift = float(_relative(shift, np.array(before)))
    elif subject.modality != "CT":
        shift *= _percent(subject)
    return Reading(
        name="region_shift", value=shift, unit=subject.shift_unit, where=f"region {region.name}"
    )


def _mean(values: NDArray[np.float32], where: Booleans) -> float:
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.SetNumberOfThreads(1)
    statistics.Execute(
        sitk.GetImageFromArray(values.astype(np.float64)),
        sitk.GetImageFromArray(where.astype(np.uint8)),
    )
    return float(statistics.GetMean(1))


def _scale(subject: Subject, index: int) -> float:
    """Return what one stored unit of a slice is in the unit of a shift."""
    slope = abs(float(subject.pixels.slope[index]))
    if subject.modality == "CT" or subject.is_uptake:
        return slope
    return slope * _percent(subject)


def _percent(subject: Subject) -> float:
    """Return what one modality unit is in percent of the intensity range."""
    low, high = subject.intensity_range
    return 100 / (high - low)


def _relative(shift: Integers | Floats | float, own: Floats) -> Floats:
    """Return a shift in percent of the mean that was there; nothing where nothing was."""
    there = np.abs(own)
    return np.asarray(
        np.divide(100 * np.asarray(shift), there, out=np.zeros_like(there, dtype=np.float64),
                  where=there > 0)
    )  # fmt: skip
