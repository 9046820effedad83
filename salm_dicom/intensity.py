"""What a plan says of one volume: the range that networks see, budget, regions of balance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from salm_dicom.errors import NoForeground, PlanError
from salm_dicom.perturb import Epsilon
from salm_dicom.plan import ProtectionPlan
from salm_dicom.volume import Booleans, Integers, Volume

# CT soft tissue: level 40 HU, width 400 HU.
CT_RANGE_HU = (-160.0, 240.0)
# Other modalities: these percentiles of the foreground.
_PERCENTILES = (0.5, 99.5)
# Edge of the smallest region in pixels of the surrogate's view, within each of which a gradient is
# nearly the same: a rising and a falling voxel must both be found.
_PIXELS_OF_A_REGION = 3


def intensity_range(
    plan: ProtectionPlan, volume: Volume, mask_at: Callable[[int], Booleans]
) -> tuple[float, float]:
    """Return the modality values that map to [0, 1] for this volume.

    Parameters
    ----------
    mask_at
        Returns the foreground of a slice, (rows, columns); asked only where it is needed.
    """
    if plan.intensity_range is not None:
        return plan.intensity_range
    if volume.modality == "CT":
        return CT_RANGE_HU
    pixels = volume.pixels
    if pixels.bits_stored == 8:
        mappings = set(zip(pixels.slope.tolist(), pixels.intercept.tolist(), strict=True))
        ends = [slope * end + b for slope, b in mappings for end in pixels.representable]
        return min(ends), max(ends)
    slices = range(len(pixels.values))
    values = [pixels.at(i).modality_values()[0][mask_at(i)] for i in slices]
    inside = np.concatenate(values)
    if not inside.size:
        raise NoForeground("no anatomy was found: every voxel is clipped or padding")
    low, high = (float(v) for v in np.percentile(inside, _PERCENTILES))
    if not low < high:
        raise PlanError("the foreground has one value only; give --intensity-range")
    return low, high


def budgets(plan: ProtectionPlan, volume: Volume, window: tuple[float, float]) -> Integers:
    """Return the budget of each slice in stored units."""
    epsilon, width = Epsilon.parse(plan.epsilon), window[1] - window[0]
    by_slope = {s: epsilon.stored_units(width, s) for s in set(volume.pixels.slope.tolist())}
    return np.array([by_slope[s] for s in volume.pixels.slope.tolist()], dtype=np.int64)


def region_edge(plan: ProtectionPlan, volume: Volume) -> int | None:
    """Return the edge in voxels of the squares whose changes add up to 0; None: whole slices."""
    if not plan.zero_mean:
        return None
    spacing = np.linalg.norm(volume.affine[:3, :2], axis=0).mean()
    rows_and_columns = volume.pixels.values.shape[-2:]
    seen = 1
    if not plan.patches:
        seen = max(-(-int(a) // b) for a, b in zip(rows_and_columns, plan.grid, strict=True))
    return max(round(plan.region_mm / float(spacing)), _PIXELS_OF_A_REGION * seen)
