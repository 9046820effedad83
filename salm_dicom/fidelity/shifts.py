"""Shift of means, where a reader would look: windows of 10 and 20 mm, tissues, outlined regions.

The mean of a slice can stay while every organ in it moves. A window that slides over the slice sees
that without knowing any organ; a slice is looked at by itself, for the mean over several slices is
never further from 0 than the mean of the worst.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.sliding import coarse, kind_for, sliding_sums
from salm_dicom.fidelity.subject import Reading, Region, Subject
from salm_dicom.fidelity.tissues import reaches
from salm_dicom.volume import Booleans, Floats, Integers

# Sides of the sliding windows: the smallest lesion that is measured, and a piece of an organ.
WINDOWS_MM = {10.0: "small_window_shift", 20.0: "window_shift"}
# A window counts where foreground fills at least this share of it.
_FILLED = 0.5
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
    for index, found in enumerate(subject.of_slices(window_shifts)):
        for mm, most in found.items():
            if most > worst[mm][0]:
                worst[mm] = most, f"slice {index + 1}"
    for mm, (value, at) in worst.items():
        yield Reading(
            name=WINDOWS_MM[mm], value=value, unit=subject.shift_unit, where=f"{mm:g} mm window",
            at=at,
        )  # fmt: skip


def window_shifts(subject: Subject, index: int) -> dict[float, float]:
    """Return the largest shift of a slice's windows, by their side in mm."""
    one = subject.change_of(index)
    if not one.changed:
        return {}
    sides = {mm: [max(1, round(mm / each)) for each in subject.spacing_mm] for mm in WINDOWS_MM}
    factor = 2 if min(sides[min(WINDOWS_MM)]) >= _COARSEN else 1
    cells = {mm: [max(1, round(side / factor)) for side in sides[mm]] for mm in WINDOWS_MM}
    voxels = factor**2 * max(rows * columns for rows, columns in cells.values())
    inside = subject.mask[index][subject.box]
    change = subject.change_at(index, subject.box)
    found = [
        coarse(inside.view(np.uint8), factor, kind_for(voxels)),
        coarse(change * inside if one.outside else change, factor, kind_for(voxels * one.largest)),
    ]
    if subject.is_uptake:
        own = subject.source_at(index, subject.box) * inside
        found.append(coarse(own, factor, np.dtype(np.float64)))
    scale = _scale(subject, index)
    return {
        mm: _largest_mean(
            [sliding_sums(each, rows, columns) for each in found],
            max(_FILLED * factor**2 * rows * columns, 1),
            scale,
        )
        for mm, (rows, columns) in cells.items()
    }


def _largest_mean(sums: list[NDArray[Any]], least: float, scale: float) -> float:
    """Return the largest absolute mean of the windows, or 0 where there is none.

    Parameters
    ----------
    sums
        Foreground and change of each window, and its own values where the mean is a share of them.
    least
        Foreground that a window must have.
    scale
        What one stored unit is in the unit of the mean.
    """
    counts, shifts, *own = sums
    enough = counts >= math.ceil(least)
    if own:
        return float(_relative(np.abs(shifts[enough]) * scale, own[0][enough]).max(initial=0))
    size = (np.abs(shifts) * enough).reshape(-1)
    counts = counts.reshape(-1)
    if not size.any():
        return 0.0
    most = int(size.argmax())
    # without a quotient: which means are at least the one where the sum is largest
    wide = kind_for(int(size[most]) * int(counts.max()))
    no_less = size.astype(wide) * counts[most] >= counts.astype(wide) * size[most]
    places = np.flatnonzero(no_less & enough.reshape(-1))
    return float((size[places] * scale / counts[places]).max())


def _of_tissues(subject: Subject) -> Reading:
    worst, where = 0.0, ""
    for index, (shift, tissue) in enumerate(subject.of_slices(tissue_shift)):
        if shift > worst:
            worst, where = shift, f"{subject.tissues[0][tissue]}, slice {index + 1}"
    return Reading(name="tissue_shift", value=worst, unit=subject.shift_unit, at=where)


def tissue_shift(subject: Subject, index: int) -> tuple[float, int]:
    """Return the largest shift of a slice's tissues, and the number of that tissue."""
    one = subject.change_of(index)
    if not one.changed:
        return 0.0, 0
    counts = _tissue_counts(subject, index, subject.edges_of(index))
    change = -np.diff([one.inside, *one.tissues, 0]).astype(np.float64)
    means = change / np.maximum(counts, 1)
    if subject.is_uptake:
        own = _tissue_means(subject, index, subject.tissues[1])
        shift = np.abs(_relative(means * subject.pixels.slope[index], own))
    else:
        shift = np.abs(means) * _scale(subject, index)
    # a tissue counts where it has the area of one of the smaller windows
    shift *= counts >= min(WINDOWS_MM) ** 2 / (subject.spacing_mm[0] * subject.spacing_mm[1])
    return float(shift.max()), int(shift.argmax())


def _tissue_counts(subject: Subject, index: int, edges: list[tuple[bool, int]]) -> Integers:
    """Return how many voxels of the foreground of a slice each tissue has."""
    inside, values = (each[index][subject.box] for each in (subject.mask, subject.pixels.values))
    from_edge = [int(np.count_nonzero(reaches(values, edge) & inside)) for edge in edges]
    return np.asarray(-np.diff([subject.change_of(index).foreground, *from_edge, 0]))


def _tissue_means(subject: Subject, index: int, edges: Floats) -> Floats:
    """Return the mean of each tissue of a slice, in modality units."""
    values = subject.source_at(index)[subject.mask[index]]
    tissue = np.searchsorted(edges, values, side="right")
    counts = np.bincount(tissue, minlength=len(edges) + 1)
    found = np.bincount(tissue, values, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return np.asarray(found)


def _of_slices(subject: Subject) -> Reading:
    """Return the largest shift of the mean of all foreground of a slice."""
    worst, where = 0.0, ""
    for index in subject.changed():
        one = subject.changes[index]
        if not one.foreground:
            continue
        shift = abs(one.inside) / one.foreground * _scale(subject, index)
        if subject.is_uptake:
            inside = subject.mask[index]
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
