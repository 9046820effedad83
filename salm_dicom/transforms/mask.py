"""The label map of a MONAI pipeline as the mask of a volume."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from salm_dicom.errors import BadValue, MismatchError
from salm_dicom.grid import align
from salm_dicom.protector import Mask

_REMEDY = (
    'bring it there with ResampleToMatchd(keys=MASK, key_dst=IMAGE, mode="nearest", '
    'padding_mode="zeros") before SALMd'
)


def mask_on(labels: Tensor, image: MetaTensor, names: Mapping[int, str]) -> Mask:
    """Return the mask of an image, on the image's grid.

    Parameters
    ----------
    labels
        (1, X, Y, Z), whole numbers, 0 for no class. A `MetaTensor` lies where its affine says:
        flips, quarter turns, crops and pads between it and the image are undone. Any other tensor
        lies on the image's grid.
    image
        (frames, X, Y, Z).
    names
        Of the classes; one that has none is `label N`, as the batch commands name NIfTI masks.

    Raises
    ------
    MismatchError
        It lies on another grid, does not cover the image, or has another shape.
    BadValue
        It holds values that are no whole numbers, or below 0.
    """
    if labels.ndim != 4 or labels.shape[0] != 1:
        raise MismatchError(
            f"a mask of shape {tuple(labels.shape)}; one label map (1, X, Y, Z) is needed. Of a "
            "channel for each class AsDiscreted(argmax=True) makes one"
        )
    values = _on_grid(labels, image)
    if np.isnan(values).any():
        raise MismatchError(f"the mask does not cover all of the image; {_REMEDY}")
    numbers = np.unique(values)
    if (numbers != np.rint(numbers)).any() or numbers[0] < 0:
        raise BadValue(
            "the mask has values that are no whole numbers from 0; resample and turn masks with "
            'mode="nearest"'
        )
    slices = values.transpose()
    regions = {
        names.get(int(number), f"label {number:g}"): slices == number
        for number in numbers[numbers > 0].tolist()
    }
    return Mask.of(regions, slices.shape)


def _on_grid(labels: Tensor, image: MetaTensor) -> NDArray[np.float32]:
    """Return the values on the image's grid, (X, Y, Z)."""
    plain = labels.as_tensor() if isinstance(labels, MetaTensor) else labels
    values: NDArray[np.float32] = plain.detach().cpu().float().numpy()[0]
    shape = tuple(image.shape[1:])
    if not isinstance(labels, MetaTensor):
        if values.shape != shape:
            raise MismatchError(
                f"a mask of {values.shape} voxels without an affine, an image of {shape}; load it "
                f"as a MetaTensor, or {_REMEDY}"
            )
        return values
    try:
        return align(values, labels.affine.numpy(), shape, image.affine.numpy())
    except MismatchError as error:
        raise MismatchError(f"the mask lies on another grid than the image; {_REMEDY}") from error
