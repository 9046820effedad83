"""The way back: a source NIfTI image from its protected one and the change of each frame."""

from __future__ import annotations

from dataclasses import dataclass

from salm_dicom.errors import MismatchError
from salm_dicom.nifti.image import NiftiImage
from salm_dicom.nifti.orientation import turned
from salm_dicom.nifti.series import turn_of
from salm_dicom.volume import Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFrames:
    """What the vault keeps of a source file.

    Parameters
    ----------
    deltas
        Stored units that were added, (frames, slices, rows, columns), in the grid of `read_nifti`.
    sha256, file_sha256
        Of the uncompressed file, and of the file on disk.
    """

    deltas: Integers
    sha256: str
    file_sha256: str


def restored(protected: NiftiImage, kept: KeptFrames) -> NiftiImage:
    """Return the source image.

    Raises
    ------
    MismatchError
        Protected file and vault do not belong together, or the file was changed since.
    """
    voxels = protected.voxels().copy()
    turn = turn_of(protected)
    if kept.deltas.shape != voxels.shape:
        raise MismatchError("the protected voxels and the vault's changes differ in size")
    for values, delta in zip(voxels, kept.deltas, strict=True):
        values -= turned(delta, turn).astype(voxels.dtype)
    source = protected.with_voxels(voxels)
    if source.sha256 != kept.sha256:
        raise MismatchError(
            "the restored file is not the source: the protected file was changed, or the vault is "
            "another run's"
        )
    return source
