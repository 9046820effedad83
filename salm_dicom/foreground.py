"""Anatomy versus air, as a mask: where a perturbation may go.

Air is found on a grid coarsened by up to 8, which keeps the mask cheap; its edge is then taken
voxel by voxel. Lungs and bowel inside the body count as anatomy, the air around it does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from salm_dicom.crew import ALONE, Crew
from salm_dicom.volume import Booleans, Floats, Integers, StoredPixels

# It writes to stderr past Python; what it would warn of has a code here (no anatomy, one value).
sitk.ProcessObject.SetGlobalWarningDisplay(False)

# CT: between air (-1000 HU) and fat (-100 HU).
_CT_AIR_HU = -500.0
# Projections and photographs have no air for a threshold: all that is not clipped counts.
_PROJECTIONS = {
    "CR", "DX", "MG", "RG", "IO", "PX", "XA", "RF",
    "ES", "GM", "OP", "OAM", "SM", "XC", "DMS",
}  # fmt: skip
# A coarse slice keeps at least this many rows and columns; a block has at most _BLOCK voxels' side.
_COARSE = 64
_BLOCK = 8
# Components smaller than this share of the largest are table, tubes and noise.
_SMALL = 0.1


def foreground(pixels: StoredPixels, modality: str, photometric: str = "MONOCHROME2") -> Booleans:
    """Return True on anatomy, shape of the stored values; see `outline`."""
    found = outline(pixels, modality, photometric)
    mask = np.zeros(pixels.values.shape, dtype=bool)
    for index, one in enumerate(mask):
        found.at(index, one)
    return mask


def outline(
    pixels: StoredPixels, modality: str, photometric: str = "MONOCHROME2", crew: Crew = ALONE
) -> Outline:
    """Return where anatomy is: no air around it, no padding, no clipped voxels.

    Parameters
    ----------
    pixels
        Stored values, (slices, rows, columns).
    modality
        DICOM's *Modality*. CT is split at -500 HU; of a projection (CR, DX, MG) all that is not
        clipped counts; anything else is split by Li's minimum cross-entropy threshold of the
        coarse volume.
    photometric
        MONOCHROME1 stores dark as high values: anatomy is then below the threshold.
    crew
        Who looks at the slices; the result is the same.

    References
    ----------
    Li & Tam, *An iterative algorithm for minimum cross entropy thresholding*, Pattern Recognition
    Letters 19 (1998).
    """
    shape = pixels.values.shape
    factor = max(1, min(_BLOCK, min(shape[1:]) // _COARSE))
    above = (pixels.slope > 0) == (photometric != "MONOCHROME1")
    (least, most), coarse = _coarse(pixels, factor, above, crew)
    threshold, body = np.zeros(shape[0]), np.zeros(coarse.shape, dtype=bool)
    if least < most and modality in _PROJECTIONS:
        body[:] = True
    elif least < most:
        threshold = _threshold(pixels, modality, coarse)
        edge, side = threshold[:, None, None], above[:, None, None]
        body = _anatomy(np.where(side, coarse >= edge, coarse < edge))
    return Outline(
        pixels=pixels,
        body=body,
        rim=body & ~_eroded(body),
        factor=factor,
        threshold=threshold,
        above=above,
        extremes=(least, most),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The foreground of a volume, coarse; `at` makes the mask of one slice.

    Parameters
    ----------
    body, rim
        Anatomy and its outermost blocks, (slices, rows, columns) / factor.
    factor
        Voxels on a block's side.
    threshold, above
        Stored value between air and anatomy, and on which side anatomy lies, for each slice.
    extremes
        Smallest and largest stored value; voxels that have them may be clipped.
    """

    pixels: StoredPixels
    body: Booleans
    rim: Booleans
    factor: int
    threshold: Floats
    above: Booleans
    extremes: tuple[int, int]

    def at(self, index: int, out: Booleans | None = None) -> Booleans:
        """Return the mask of one slice, (rows, columns); all False for a constant image.

        Parameters
        ----------
        out
            Where to put it; all False.
        """
        values = self.pixels.values[index]
        mask = np.zeros(values.shape, dtype=bool) if out is None else out
        blocks = np.flatnonzero(self.body[index].any(axis=1))
        if not blocks.size:
            return mask
        first, last = int(blocks[0]), int(blocks[-1]) + 1
        part = slice(first * self.factor, last * self.factor)
        found, values = mask[part], values[part]
        # whole numbers on either side of the threshold: comparing integers is quicker
        # no number where float32 cannot hold the values; nothing is anatomy then
        edge = math.ceil(np.nan_to_num(self.threshold[index], posinf=2**62, neginf=-(2**62)))
        compare = np.greater_equal if self.above[index] else np.less
        compare(values, edge, out=found)
        self._combine(np.logical_or, found, ~self.rim[index, first:last])
        self._combine(np.logical_and, found, self.body[index, first:last])
        for clipped in self.extremes:
            found &= values != clipped
        if self.pixels.padding is not None:
            low, high = self.pixels.padding
            found &= (values < low) | (values > high)
        if self.pixels.room is not None:
            found &= self.pixels.room[index][part] > 0
        return mask

    def _combine(self, combine: np.ufunc, mask: Booleans, blocks: Booleans) -> None:
        """Combine a mask with what is said of each block, in place."""
        rows, columns = mask.shape
        wide = np.repeat(blocks, self.factor, axis=1)[:, :columns]
        whole = rows // self.factor
        within = mask[: whole * self.factor].reshape(whole, self.factor, columns)
        combine(within, wide[:whole, None], out=within)
        rest = mask[whole * self.factor :]
        combine(rest, wide[whole:], out=rest)


def _threshold(pixels: StoredPixels, modality: str, coarse: Floats) -> Floats:
    """Return the stored value between air and anatomy, for each slice."""
    if modality == "CT":
        return (_CT_AIR_HU - pixels.intercept) / pixels.slope
    scaled = pixels.slope[:, None, None] * coarse + pixels.intercept[:, None, None]
    values, value = scaled.astype(np.float32), np.float64(0)
    if values.any():  # of nothing but zeros ITK's threshold is what it finds in memory
        chosen = sitk.LiThresholdImageFilter()
        chosen.SetInsideValue(0)
        chosen.SetOutsideValue(1)
        chosen.Execute(sitk.GetImageFromArray(values))
        value = np.float64(chosen.GetThreshold())
    stored: Floats = (value - pixels.intercept) / pixels.slope
    return stored


def _coarse(
    pixels: StoredPixels, factor: int, above: Booleans, crew: Crew
) -> tuple[tuple[int, int], Floats]:
    """Return the extremes, and the mean of four voxels of each block; padding counts as air."""
    slices, *sides = pixels.values.shape
    rows, columns = ([_places(side, factor, part) for part in (1, 3)] for side in sides)
    shape = (slices, *(-(-side // factor) for side in sides))
    total, padded = crew.zeros(shape, np.float64), crew.zeros(shape, np.uint8)

    def look(index: int) -> tuple[int, ...]:
        values = pixels.values[index]
        for row in rows:
            for column in columns:
                found = values[row][:, column]
                if pixels.padding is not None:
                    is_padding = (found >= pixels.padding[0]) & (found <= pixels.padding[1])
                    padded[index] += is_padding
                    found = np.where(is_padding, 0, found)
                total[index] += found
        return pixels.ends(index)

    ends = [end for both in crew.map(look, range(slices)) for end in both] or [0]
    least, most = min(ends), max(ends)
    if pixels.padding is not None:
        total += padded * np.where(above, least, most)[:, None, None]
    total /= 4
    return (least, most), total


def _anatomy(solid: Booleans) -> Booleans:
    """Return what is large enough, with its holes filled; done in the box that holds it all.

    The box has a rim of air, which is one with the air beyond it.
    """
    body = np.zeros_like(solid)
    rows, columns = (np.flatnonzero(solid.any(axis=axes)) for axes in ((0, 2), (0, 1)))
    if rows.size:
        top, left = (max(0, int(found[0]) - 1) for found in (rows, columns))
        box = np.s_[:, top : rows[-1] + 2, left : columns[-1] + 2]
        body[box] = _filled(_without_small(solid[box]))
    return body


def _places(size: int, factor: int, quarters: int) -> slice | NDArray[np.intp]:
    """Return a place in each block of a side, so many quarters of the block from its start."""
    first = quarters * factor // 4
    if size % factor == 0:
        return slice(first, None, factor)
    return np.minimum(np.arange(0, size, factor) + first, size - 1)


def _without_small(solid: Booleans) -> Booleans:
    """Return the components of at least a tenth of the largest one's voxels."""
    opened = ~_eroded(~_eroded(solid))
    labels = sitk.GetArrayFromImage(_run(sitk.ConnectedComponentImageFilter(), _image(opened)))
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    if not sizes.any():
        return solid
    return np.asarray((sizes >= _SMALL * sizes.max())[labels])


def _filled(solid: Booleans) -> Booleans:
    """Return the mask with the holes of each slice filled.

    A hole is air that does not reach the edge of its slice. All slices are labelled in one call,
    kept apart by empty ones and each with a rim of air.
    """
    slices, rows, columns = solid.shape
    air = np.zeros((2 * slices, rows + 2, columns + 2), dtype=bool)
    air[::2] = True
    air[::2, 1:-1, 1:-1] = ~solid
    labels = sitk.GetArrayFromImage(_run(sitk.ConnectedComponentImageFilter(), _image(air)))[::2]
    outside = labels[:, :1, :1]
    return np.asarray(labels[:, 1:-1, 1:-1] != outside)


def _eroded(body: Booleans) -> Booleans:
    """Return the mask without blocks that touch air; the edge of the image is no air.

    Erosion by a square of 3 x 3 blocks in each slice; in numpy, for such small masks cost
    SimpleITK more to take over than to work on.
    """
    padded = np.pad(body, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    rows = padded[:, :-2] & padded[:, 1:-1] & padded[:, 2:]
    return np.asarray(rows[:, :, :-2] & rows[:, :, 1:-1] & rows[:, :, 2:])


def _image(mask: Booleans) -> sitk.Image:
    return sitk.GetImageFromArray(mask.astype(np.uint8))


def _run(image_filter: Any, image: sitk.Image) -> sitk.Image:
    """Run a filter on one thread: starting more costs longer than these small images take."""
    image_filter.SetNumberOfThreads(1)
    result: sitk.Image = image_filter.Execute(image)
    return result


def near_edges(classes: Integers, spacing_mm: tuple[float, float], reach_mm: float) -> Booleans:
    """Return True within a reach of an edge between classes, in the slice, on either side of it.

    Parameters
    ----------
    classes
        A number for each voxel, (slices, rows, columns); an edge is where neighbours differ.
    spacing_mm
        Distance of rows, and of columns.
    reach_mm
        Distance to the nearest voxel that lies at an edge; those are always within it.
    """
    found = np.zeros(classes.shape, dtype=bool)
    down, across = classes[:, 1:] != classes[:, :-1], classes[:, :, 1:] != classes[:, :, :-1]
    found[:, 1:] |= down
    found[:, :-1] |= down
    found[:, :, 1:] |= across
    found[:, :, :-1] |= across
    distance = sitk.SignedMaurerDistanceMapImageFilter()
    distance.SetSquaredDistance(False)
    distance.SetUseImageSpacing(True)
    for edges in found:
        if edges.any():
            image = _image(edges)
            image.SetSpacing([float(mm) for mm in reversed(spacing_mm)])
            edges |= sitk.GetArrayFromImage(_run(distance, image)) <= reach_mm
    return found
