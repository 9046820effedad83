"""Grids: put voxels of one back on another, by exact index arithmetic or not at all; spacing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import MismatchError

# Largest error of an index, in voxels, that float32 affines and header decimals explain.
_TOLERANCE = 1e-2


def align(
    moved: NDArray[np.float32],
    moved_affine: NDArray[np.floating],
    home_shape: tuple[int, ...],
    home_affine: NDArray[np.floating],
) -> NDArray[np.float32]:
    """Return the values of `moved` at home: NaN where it does not cover the home grid.

    Flips, rotations by 90 degrees, transpositions, crops and pads are undone exactly; what
    `moved` has outside the home grid is dropped.

    Parameters
    ----------
    moved
        float32, three dimensions, indexed as its affine says.
    home_shape
        Shape of the result.
    moved_affine, home_affine
        (4, 4), index to millimetres in the same space.

    Raises
    ------
    MismatchError
        The grids differ by more than flips, quarter turns, crops and pads.
    """
    if moved.shape == home_shape and np.allclose(moved_affine, home_affine, atol=1e-4):
        return moved
    axes, signs, offset = _index_map(moved_affine, home_affine)
    back = np.transpose(moved, np.argsort(axes))
    for axis in range(3):
        if signs[np.argsort(axes)[axis]] < 0:
            back = np.flip(back, axis)
            offset[axis] -= back.shape[axis] - 1
    first = np.maximum(offset, 0)
    last = np.minimum(offset + back.shape, home_shape)
    if (last <= first).any():
        raise MismatchError("the image and its source do not overlap; was it moved or registered?")
    out = np.full(home_shape, np.nan, dtype=np.float32)
    inside = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    taken = tuple(slice(a - o, b - o) for a, b, o in zip(first, last, offset, strict=True))
    out[inside] = back[taken]
    return out


def covers(
    moved_shape: tuple[int, ...],
    moved_affine: NDArray[np.floating],
    home_shape: tuple[int, ...],
    home_affine: NDArray[np.floating],
) -> bool:
    """Return whether `align` puts a value on every voxel of the home grid."""
    try:
        axes, signs, offset = _index_map(moved_affine, home_affine)
    except MismatchError:
        return False
    for axis, home_axis in enumerate(axes.tolist()):
        steps = moved_shape[axis] - 1
        first = int(offset[home_axis]) - (steps if signs[axis] < 0 else 0)
        if first > 0 or first + steps < home_shape[home_axis] - 1:
            return False
    return True


def spacing_mm(affine: NDArray[np.floating]) -> tuple[float, float]:
    """Return the distance of rows and of columns of a volume; 1 where its affine does not say."""
    columns, rows = np.linalg.norm(affine[:3, :2], axis=0).tolist()
    return rows if 0 < rows < np.inf else 1.0, columns if 0 < columns < np.inf else 1.0


def _index_map(
    moved_affine: NDArray[np.floating], home_affine: NDArray[np.floating]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return for each axis of `moved` its axis in `home` and its sign; and the index of voxel 0."""
    matrix = np.linalg.inv(home_affine.astype(np.float64)) @ moved_affine.astype(np.float64)
    turn, offset = matrix[:3, :3], matrix[:3, 3]
    axes = np.argmax(np.abs(turn), axis=0)
    signs = np.sign(turn[axes, range(3)]).astype(np.intp)
    exact = np.zeros((3, 3))
    exact[axes, range(3)] = signs
    if sorted(axes) != [0, 1, 2] or np.abs(turn - exact).max() > _TOLERANCE / 10:
        raise MismatchError(
            "the grid was resampled or turned by less than 90 degrees on the way from load to "
            "save; voxels cannot be put back exactly. Save before Spacing, Resize, Affine and "
            "Rotate; a protector's plan can see images through them (preprocessing)"
        )
    whole = np.rint(offset)
    if np.abs(offset - whole).max() > _TOLERANCE * 10:
        raise MismatchError("the grid was shifted by part of a voxel; voxels cannot be put back")
    return axes, signs, whole.astype(np.intp)
