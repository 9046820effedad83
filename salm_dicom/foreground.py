"""Anatomy versus air, as a mask: where a perturbation may go.

Air is found on a grid coarsened by up to 8, which makes the mask of a 512 x 512 slice cost a
millisecond; its edge is then taken voxel by voxel. Lungs and bowel inside the body count as
anatomy, the air around the patient does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from salm_dicom.volume import Booleans, Floats, Integers, StoredPixels

# CT: between air (-1000 HU) and fat (-100 HU).
_CT_AIR_HU = -500.0
# A coarse slice keeps at least this many rows and columns; a block has at most _BLOCK voxels' side.
_COARSE = 64
_BLOCK = 8
# Components smaller than this share of the largest are table, tubes and noise.
_SMALL = 0.1


def foreground(pixels: StoredPixels, modality: str, photometric: str = "MONOCHROME2") -> Booleans:
    """Return True on anatomy: no air around it, no padding, no clipped voxels.

    Parameters
    ----------
    pixels
        Stored values, (slices, rows, columns).
    modality
        DICOM's *Modality*. CT is split at -500 HU, anything else by Li's minimum cross-entropy
        threshold of the coarse volume.
    photometric
        MONOCHROME1 stores dark as high values: anatomy is then below the threshold.

    Returns
    -------
    ndarray
        bool, shape of the stored values; all False for a constant image.

    References
    ----------
    Li & Tam, *An iterative algorithm for minimum cross entropy thresholding*, Pattern Recognition
    Letters 19 (1998).
    """
    values = pixels.values
    least, most = pixels.extremes()
    if least >= most:
        return np.zeros(values.shape, dtype=bool)
    factor = max(1, min(_BLOCK, min(values.shape[1:]) // _COARSE))
    coarse = _coarse(pixels, factor, least)
    threshold = _threshold(pixels, modality, coarse)
    above = (pixels.slope > 0) == (photometric != "MONOCHROME1")
    body = _filled(_without_small(_beyond(coarse, threshold, above)))
    mask = _refined(body, factor, values, threshold, above)
    for one, stored in zip(mask, values, strict=True):
        one &= stored != least
        one &= stored != most
        if pixels.padding is not None:
            one &= (stored < pixels.padding[0]) | (stored > pixels.padding[1])
    return mask


def _threshold(pixels: StoredPixels, modality: str, coarse: Floats) -> Floats:
    """Return the stored value between air and anatomy, for each slice."""
    if modality == "CT":
        return (_CT_AIR_HU - pixels.intercept) / pixels.slope
    scaled = pixels.slope[:, None, None] * coarse + pixels.intercept[:, None, None]
    chosen = sitk.LiThresholdImageFilter()
    chosen.SetInsideValue(0)
    chosen.SetOutsideValue(1)
    chosen.Execute(sitk.GetImageFromArray(scaled.astype(np.float32)))
    value = np.float64(chosen.GetThreshold())
    stored: Floats = (value - pixels.intercept) / pixels.slope
    return stored


def _beyond(values: Integers | Floats, threshold: Floats, above: Booleans) -> Booleans:
    """Return whether each value lies on the anatomy's side of its slice's threshold."""
    edge = threshold.reshape(-1, *[1] * (values.ndim - 1))
    side = above.reshape(edge.shape)
    return np.asarray(np.where(side, values >= edge, values < edge))


def _coarse(pixels: StoredPixels, factor: int, least: int) -> Floats:
    """Return the mean of four voxels of each block, padding counted as the least value."""
    values = pixels.values
    first, second = factor // 4, 3 * factor // 4
    rows = [
        np.minimum(_starts(values.shape[1], factor) + o, values.shape[1] - 1)
        for o in (first, second)
    ]
    columns = [
        np.minimum(_starts(values.shape[2], factor) + o, values.shape[2] - 1)
        for o in (first, second)
    ]
    total = np.zeros((len(values), len(rows[0]), len(columns[0])))
    for row in rows:
        for column in columns:
            found = values[:, row[:, None], column]
            if pixels.padding is not None:
                is_padding = (found >= pixels.padding[0]) & (found <= pixels.padding[1])
                found = np.where(is_padding, found.dtype.type(least), found)
            total += found
    return total / 4


def _starts(size: int, factor: int) -> NDArray[np.intp]:
    return np.arange(0, size, factor)


def _refined(
    body: Booleans, factor: int, values: Integers, threshold: Floats, above: Booleans
) -> Booleans:
    """Return the body on the fine grid; of its outermost blocks, voxels beyond the threshold."""
    slices, rows, columns = values.shape
    high, wide = body.shape[1:]
    fine = np.empty((slices, high, factor, wide, factor), dtype=bool)
    fine[...] = body[:, :, None, :, None]
    rim = np.nonzero(body & ~_eroded(body))
    offsets = np.arange(factor)
    row = np.minimum(rim[1][:, None] * factor + offsets, rows - 1)
    column = np.minimum(rim[2][:, None] * factor + offsets, columns - 1)
    found = values[rim[0][:, None, None], row[:, :, None], column[:, None, :]]
    fine[rim[0], rim[1], :, rim[2], :] = _beyond(found, threshold[rim[0]], above[rim[0]])
    whole = fine.reshape(slices, high * factor, wide * factor)
    return np.ascontiguousarray(whole[:, :rows, :columns])


def _without_small(solid: Booleans) -> Booleans:
    """Return the components of at least a tenth of the largest one's voxels."""
    opening = sitk.BinaryMorphologicalOpeningImageFilter()
    opening.SetKernelRadius([1, 1, 0])
    image = _run(opening, _image(solid))
    labels = sitk.GetArrayFromImage(_run(sitk.ConnectedComponentImageFilter(), image))
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
    """Return the mask without blocks that touch air; the edge of the image is no air."""
    erosion = sitk.BinaryErodeImageFilter()
    erosion.SetKernelRadius([1, 1, 0])
    erosion.SetBoundaryToForeground(True)
    return np.asarray(sitk.GetArrayFromImage(_run(erosion, _image(body))), dtype=bool)


def _image(mask: Booleans) -> sitk.Image:
    return sitk.GetImageFromArray(mask.astype(np.uint8))


def _run(image_filter: Any, image: sitk.Image) -> sitk.Image:
    """Run a filter on one thread: starting more costs longer than these small images take."""
    image_filter.SetNumberOfThreads(1)
    result: sitk.Image = image_filter.Execute(image)
    return result
