"""Which NIfTI files can be protected, and by code why the others are left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from salm_dicom.nifti.series import read_nifti


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiFile:
    """One file that can be protected.

    Parameters
    ----------
    sha256
        Of the uncompressed file.
    series_uid
        What its sidecar names, else made from the content.
    frames, slices, rows, columns
        Its size; slices of all frames are `images`.
    affine
        (column, row, slice, 1) to RAS millimetres, its 16 numbers row by row.
    irregular
        Empty, or why its slices are no regular volume.
    quantity
        Empty, or why its values are measurements.
    """

    path: Path
    sha256: str
    series_uid: str
    modality: str
    frames: int
    slices: int
    rows: int
    columns: int
    affine: tuple[float, ...]
    irregular: str
    quantity: str = ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The one file."""
        return (self.path,)

    @property
    def key(self) -> str:
        """What names it in a ledger."""
        return f"{self.sha256}/nifti"

    @property
    def is_multi_frame(self) -> bool:
        """No: the affine says how the slices lie."""
        return False

    @property
    def images(self) -> int:
        """Slices of all frames."""
        return self.frames * self.slices

    @property
    def voxels(self) -> int:
        """Voxels of all frames."""
        return self.images * self.rows * self.columns


def inspect(path: Path, modality: str | None, *, allow_quantitative: bool = False) -> NiftiFile:
    """Return what a NIfTI file holds; reads all of it.

    Raises
    ------
    InputError
        The file cannot be protected exactly; its code says why.
    """
    series = read_nifti(path, modality, allow_quantitative=allow_quantitative)
    first = series.volumes[0]
    slices, rows, columns = first.pixels.values.shape
    return NiftiFile(
        path=path,
        sha256=series.origin.sha256,
        series_uid=series.series_uid,
        modality=first.modality,
        frames=len(series.volumes),
        slices=slices,
        rows=rows,
        columns=columns,
        affine=tuple(first.affine.reshape(-1).tolist()),
        irregular=first.irregular,
        quantity=first.quantity,
    )
