"""Which way up a NIfTI grid is: flips that give it the directions a DICOM series has.

A surrogate that was fitted on DICOM sees a NIfTI image of the same anatomy the same way up:
columns run to the left or back, rows to the back or feet, and columns, rows and slices are
right-handed, as slices sorted along their normal are (PS3.3 C.7.6.2.1.1). Slices stay slices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.volume import Floats

_SHEAR_DEGREES = 0.5


def flips(affine: Floats) -> tuple[bool, bool, bool]:
    """Return which of i, j and k to turn round."""
    matrix = affine[:3, :3]
    across = [matrix[np.argmax(np.abs(matrix[:, axis])), axis] > 0 for axis in (0, 1)]
    is_right_handed = np.linalg.det(matrix) > 0
    last = is_right_handed == (across[0] != across[1])
    return bool(across[0]), bool(across[1]), bool(last)


def turned(values: NDArray[Any], turn: tuple[bool, bool, bool]) -> NDArray[Any]:
    """Return a view of (k, j, i) with i, j, k turned round where `turn` says so."""
    return np.flip(values, tuple(2 - axis for axis in range(3) if turn[axis]))


def turned_affine(
    affine: Floats, shape: tuple[int, int, int], turn: tuple[bool, bool, bool]
) -> Floats:
    """Return the affine of the grid that `turned` gives; `shape` is (i, j, k)."""
    step = np.eye(4)
    for axis in range(3):
        if turn[axis]:
            step[axis, axis], step[axis, 3] = -1, shape[axis] - 1
    return np.asarray(affine @ step)


def why_irregular(affine: Floats) -> str:
    """Return empty, or why the slices are no evenly spaced parallel stack."""
    columns, rows, slices = (affine[:3, axis] for axis in range(3))
    normal = np.cross(columns, rows)
    cosine = abs(normal @ slices) / (np.linalg.norm(normal) * np.linalg.norm(slices))
    tilt = float(np.degrees(np.arccos(np.clip(cosine, 0, 1))))
    if not np.isfinite(tilt):
        return "distances between voxels are too large or too small to compute with"
    if tilt > _SHEAR_DEGREES:
        return f"slices are shifted sideways: gantry tilt of {tilt:.1f} degrees"
    return ""
