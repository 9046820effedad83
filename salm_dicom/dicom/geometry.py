"""Order slices along their normal, check that they make a regular volume, build the affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from salm_dicom.dicom.header import InstanceHeader, Vector
from salm_dicom.errors import BadValue

# One position: closer than this along the normal. Regular: gaps within 5 % of their median,
# steps within 0.5 degrees of the normal.
_SAME_POSITION_MM = 1e-3
_SPACING_TOLERANCE = 0.05
_TILT_DEGREES = 0.5
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices in order, with their affine and, if they are no regular volume, why."""

    headers: tuple[InstanceHeader, ...]
    affine: NDArray[np.float64]
    irregular: str
    gaps_mm: tuple[float, ...]


def stacks(headers: Sequence[InstanceHeader]) -> list[Stack]:
    """Return the volumes that instances of one volume key make, each in spatial order.

    Several images at one position (echoes or time points that no attribute tells apart) are
    split in Instance Number order when every position has equally many; otherwise they stay one
    irregular stack.
    """
    placed = [h for h in headers if h.position and h.orientation]
    if len(placed) < len(headers) or len(headers) == 1:
        return [_stack(sorted(headers, key=lambda h: (h.instance_number, h.sop_uid)))]
    ordered = sorted(headers, key=lambda h: (_along(h), h.instance_number, h.sop_uid))
    positions = [list(same) for _, same in groupby(ordered, key=_rounded_position)]
    counts = {len(same) for same in positions}
    if len(counts) > 1 or len(positions) == 1:
        return [_stack(ordered)]
    return [_stack([same[i] for same in positions]) for i in range(counts.pop())]


def _stack(ordered: Sequence[InstanceHeader]) -> Stack:
    gaps = _gaps(ordered)
    irregular = _why_irregular(ordered, gaps)
    return Stack(
        headers=tuple(ordered),
        affine=_affine(ordered, gaps, irregular),
        irregular=irregular,
        gaps_mm=gaps,
    )


def _normal(header: InstanceHeader) -> NDArray[np.float64]:
    return _perpendicular(header.orientation)


@lru_cache(maxsize=256)
def _perpendicular(orientation: Vector) -> NDArray[np.float64]:
    """Return the unit vector across a slice; a series asks for the same one again and again."""
    row, column = np.array(orientation).reshape(2, 3)
    normal: NDArray[np.float64] = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    if length < 0.5:
        raise BadValue("(0020,0037) Image Orientation (Patient) is not two perpendicular vectors")
    normal /= length
    normal.flags.writeable = False
    return normal


def _along(header: InstanceHeader) -> float:
    return float(_normal(header) @ np.array(header.position))


def _rounded_position(header: InstanceHeader) -> int:
    return round(_along(header) / _SAME_POSITION_MM / 10)


def _gaps(ordered: Sequence[InstanceHeader]) -> tuple[float, ...]:
    if len(ordered) < 2 or not all(h.position and h.orientation for h in ordered):
        return ()
    return tuple(b - a for a, b in pairwise(map(_along, ordered)))


def _why_irregular(ordered: Sequence[InstanceHeader], gaps: tuple[float, ...]) -> str:
    """Return why the slices are no evenly spaced parallel stack; empty when they are."""
    if len(ordered) == 1:
        return ""
    if "MOSAIC" in ordered[0].image_type:
        return "mosaics: each image holds the slices of a volume as tiles"
    if not gaps:
        return "slices have no position or orientation"
    if min(gaps) < _SAME_POSITION_MM:
        return "several slices lie at one position"
    middle = median(gaps)
    if max(abs(gap - middle) for gap in gaps) > _SPACING_TOLERANCE * middle:
        return f"slices are {min(gaps):.4g} to {max(gaps):.4g} mm apart"
    step = np.array(ordered[-1].position) - np.array(ordered[0].position)
    cosine = float(step @ _normal(ordered[0]) / np.linalg.norm(step))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if tilt > _TILT_DEGREES:
        return f"slices are shifted sideways: gantry tilt of {tilt:.1f} degrees"
    return ""


def _affine(
    ordered: Sequence[InstanceHeader], gaps: tuple[float, ...], irregular: str
) -> NDArray[np.float64]:
    """Return (column, row, slice) to RAS mm, PS3.3 C.7.6.2.1.1; a missing piece is the identity."""
    first = ordered[0]
    if first.spacing and min(first.spacing) <= 0:
        raise BadValue("(0028,0030) Pixel Spacing is not positive")
    between_rows, between_columns = first.spacing or (1.0, 1.0)
    affine = np.eye(4)
    if first.orientation:
        row, column = np.array(first.orientation).reshape(2, 3)
        affine[:3, 2] = _normal(first)
    else:
        row, column = np.eye(3)[:2]
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    if gaps and not irregular:
        step = np.array(ordered[-1].position) - np.array(first.position)
        affine[:3, 2] = step / len(gaps)
    if first.position:
        affine[:3, 3] = first.position
    return _LPS_TO_RAS @ affine
