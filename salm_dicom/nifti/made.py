"""A NIfTI-1 file made anew in memory: values, their mapping and an affine, and nothing else."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from salm_dicom.volume import Floats


def nifti1(
    values: NDArray[np.int16 | np.float32],
    affine: Floats,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> bytes:
    """Return a gzip-compressed file, the same bytes for the same arguments.

    The header holds sizes, the mapping and the affine (sform and qform, scanner coordinates, mm);
    it has no text, no name and no time.

    Parameters
    ----------
    values
        int16 or float32, (columns, rows, slices).
    affine
        (4, 4), (column, row, slice, 1) to RAS millimetres.
    slope, intercept
        What is shown is slope * value + intercept; NIfTI-1 holds both as float32.
    """
    image = nib.Nifti1Image(values, affine)
    image.header.set_slope_inter(slope, intercept)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return gzip.compress(image.to_bytes(), 6, mtime=0)
