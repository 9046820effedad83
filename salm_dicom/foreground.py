"""Anatomy versus air, as a mask: where a perturbation may go.

Air is found on a grid coarsened by up to 4 (a 512 x 512 slice costs a millisecond, not twenty)
and the edge is then taken voxel by voxel, so lungs and bowel inside the body count as anatomy
and the air around the patient does not.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from salm_dicom.volume import Booleans, Floats, Integers, StoredPixels

# CT: between air (-1000 HU) and fat (-100 HU).
_CT_AIR_HU = -500.0
# A coarse slice keeps at least this many rows and columns.
_COARSE = 64
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
        threshold (Li & Tam, Pattern Recognition Letters 1998) of the coarse volume.
    photometric
        MONOCHROME1 stores dark as high values: anatomy is then below the threshold.

    Returns
    -------
    ndarray
        bool, shape of the stored values; all False for a constant image.
    """
    padding = pixels.is_padding()
    values = pixels.values
    inside = values[~padding] if padding.any() else values
    if inside.size == 0 or inside.min() == inside.max():
        return np.zeros(values.shape, dtype=bool)
    least, most = inside.min(), inside.max()
    factor = _factor(values.shape)
    filled = np.where(padding, least, values) if padding.any() else values
    coarse = _coarse(filled, factor)
    threshold = _threshold(pixels, modality, coarse)
    above = pixels.slope > 0 if photometric != "MONOCHROME1" else pixels.slope < 0
    solid = _compare(coarse, threshold, above)
    body = _filled(_without_small(solid))
    interior = _refined(_eroded(body), factor, values.shape)
    edge = _refined(body, factor, values.shape)
    mask: Booleans = interior | (edge & _compare(values, threshold, above))
    mask &= (values != least) & (values != most)
    mask &= ~padding
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
    return (chosen.GetThreshold() - pixels.intercept) / pixels.slope


def _compare(values: Integers | Floats, threshold: Floats, above: Booleans) -> Booleans:
    """Return on which side of its slice's threshold each value lies."""
    low = (
        np.ceil(threshold)[:, None, None] if values.dtype.kind in "iu" else threshold[:, None, None]
    )
    if values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        low = np.clip(low, info.min, info.max).astype(values.dtype)
    if above.all():
        return np.asarray(values >= low)
    return np.where(above[:, None, None], values >= low, values < low)


def _factor(shape: tuple[int, ...]) -> int:
    return max(1, min(4, min(shape[1:]) // _COARSE))


def _coarse(values: Integers, factor: int) -> Floats:
    """Return block means over rows and columns; the last block may be smaller."""
    if factor == 1:
        return values.astype(np.float64)
    slices, rows, columns = values.shape
    high, wide = -(-rows // factor), -(-columns // factor)
    pad = ((0, 0), (0, high * factor - rows), (0, wide * factor - columns))
    even = np.pad(values, pad, mode="edge") if any(b for _, b in pad) else values
    blocks = even.reshape(slices, high, factor, wide, factor)
    total = blocks[:, :, 0, :, 0].astype(np.float64)
    for row in range(factor):
        for column in range(factor):
            if row or column:
                total += blocks[:, :, row, :, column]
    return total / factor**2


def _refined(mask: Booleans, factor: int, shape: tuple[int, ...]) -> Booleans:
    """Return the mask on the fine grid."""
    fine = np.repeat(np.repeat(mask, factor, axis=1), factor, axis=2) if factor > 1 else mask
    return fine[:, : shape[1], : shape[2]]


def _without_small(solid: Booleans) -> Booleans:
    """Return the components of at least a tenth of the largest one's voxels."""
    image = sitk.GetImageFromArray(solid.astype(np.uint8))
    opened = sitk.BinaryMorphologicalOpening(image, [1, 1, 0])
    labels = sitk.GetArrayFromImage(sitk.ConnectedComponent(opened))
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    if not sizes.any():
        return solid
    return np.asarray((sizes >= _SMALL * sizes.max())[labels])


def _filled(solid: Booleans) -> Booleans:
    """Return the mask with the holes of each slice filled."""
    slices = [
        sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(one.astype(np.uint8))))
        for one in solid
    ]
    return np.stack(slices).astype(bool)


def _eroded(body: Booleans) -> Booleans:
    image = sitk.GetImageFromArray(body.astype(np.uint8))
    eroded = sitk.BinaryErode(image, [1, 1, 0], sitk.sitkBall, 0.0, 1.0, True)
    return np.asarray(sitk.GetArrayFromImage(eroded), dtype=bool)
