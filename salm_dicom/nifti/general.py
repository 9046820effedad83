"""Any NIfTI image to an array and back, for those who do not protect: floats, labels, vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from salm_dicom.errors import BadValue, DecodeError
from salm_dicom.volume import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One image as nibabel reads it.

    Parameters
    ----------
    values
        After slope and intercept, indexed (i, j, k, ...), native byte order.
    affine, original_affine
        (4, 4) to RAS: of `values`, and of the file.
    numbers
        The numeric fields of the header; texts may hold patient data and are left out.
    """

    values: NDArray[Any]
    affine: Floats
    original_affine: Floats
    numbers: Mapping[str, NDArray[Any]]


def load_any(path: str | PathLike[str], *, canonical: bool = False) -> Loaded:
    """Return any NIfTI image; with `canonical`, its axes are put closest to RAS.

    Raises
    ------
    BadValue, DecodeError
        nibabel cannot read the header, or the voxels.
    """
    try:
        image: Any = nib.load(path)
        original = np.array(image.affine, dtype=np.float64)
        header = image.header
        if canonical:
            image = nib.as_closest_canonical(image)
        values = np.asanyarray(image.dataobj)
    except (HeaderDataError, ImageFileError, KeyError) as error:
        raise BadValue(f"the NIfTI header cannot be understood ({type(error).__name__})") from error
    except (OSError, EOFError, ValueError) as error:
        raise DecodeError(f"the NIfTI voxels cannot be read ({type(error).__name__})") from error
    return Loaded(
        values=_native(values),
        affine=np.array(image.affine, dtype=np.float64),
        original_affine=original,
        numbers={k: _native(v) for k, v in header.items() if v.dtype.kind in "iuf"},
    )


def grid_of(path: str | PathLike[str]) -> tuple[tuple[int, ...], Floats]:
    """Return shape and affine of any NIfTI image, by its header.

    Raises
    ------
    BadValue, DecodeError
        nibabel cannot read the header.
    """
    try:
        image: Any = nib.load(path)
        return tuple(image.shape), np.array(image.affine, dtype=np.float64)
    except (HeaderDataError, ImageFileError, KeyError) as error:
        raise BadValue(f"the NIfTI header cannot be understood ({type(error).__name__})") from error
    except (OSError, EOFError, ValueError) as error:
        raise DecodeError(f"the NIfTI header cannot be read ({type(error).__name__})") from error


def save_any(path: str | PathLike[str], values: NDArray[Any], affine: Floats) -> None:
    """Write values (i, j, k, ...) as they are, with their affine in sform and qform.

    Raises
    ------
    BadValue
        NIfTI has no datatype for them.
    """
    try:
        kept = values.astype(np.uint8) if values.dtype == bool else values
        image = nib.Nifti1Image(kept, affine, dtype=kept.dtype)
    except HeaderDataError as error:
        raise BadValue(f"NIfTI cannot hold {values.dtype}; give an output_dtype") from error
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in native byte order: torch knows no other."""
    values = np.asanyarray(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
