"""What an export holds: DICOM series and NIfTI files, found together, and every other file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import LeftOut, SeriesFiles, scan
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import DuplicatePosition, InputError, NotDicom, NotImage
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.scan import NiftiFile, inspect
from salm_dicom.nifti.series import read_nifti
from salm_dicom.nifti.sidecar import beside
from salm_dicom.volume import Volume

AnySeries = SeriesFiles | NiftiFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is in an export: what can be protected, and every other file."""

    dicom: tuple[SeriesFiles, ...]
    nifti: tuple[NiftiFile, ...]
    objects: tuple[ObjectHeader, ...]
    indexes: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def series(self) -> tuple[AnySeries, ...]:
        """Everything that has pixels to protect."""
        return (*self.dicom, *self.nifti)


def find(root: Path, modality: str | None = None, *, allow_quantitative: bool = False) -> Export:
    """Return what is in the folder (or single file) `root`; every file is in the result once.

    Parameters
    ----------
    modality
        Of NIfTI files whose sidecar does not say.
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """
    dicom = scan(root, allow_quantitative=allow_quantitative)
    others = {row.path for row in dicom.left_out if row.code == NotDicom.code}
    images = sorted(path for path in others if is_nifti(path))
    sidecars = {beside(path) for path in images} & others
    rows = [row for row in dicom.left_out if row.path not in {*images, *sidecars}]
    text = "says what the NIfTI image beside it is; it is not copied"
    rows += [LeftOut(path, NotImage.code, text) for path in sidecars]
    files: dict[str, NiftiFile] = {}
    for path in images:
        try:
            file = inspect(path, modality, allow_quantitative=allow_quantitative)
            if file.sha256 in files:
                raise DuplicatePosition("a copy of an image that is in the export already")
            files[file.sha256] = file
        except InputError as error:
            rows.append(LeftOut(path, error.code, str(error)))
        except Exception as error:
            rows.append(LeftOut.unforeseen(path, error))
    rows.sort(key=lambda row: str(row.path))
    return Export(
        dicom=dicom.series,
        nifti=tuple(files.values()),
        objects=dicom.objects,
        indexes=dicom.indexes,
        left_out=tuple(rows),
    )


def source_key(series: AnySeries) -> str:
    """Return what names a series of the source in the ledger."""
    if isinstance(series, NiftiFile):
        return f"{series.sha256}/nifti"
    return f"{series.headers[0].series_uid}/{min(h.sop_uid for h in series.headers)}"


def load(series: AnySeries) -> Volume:
    """Return the volume of a series; of a NIfTI file over time, the first."""
    if isinstance(series, NiftiFile):
        file = read_nifti(series.path, series.modality, allow_quantitative=bool(series.quantity))
        return file.volumes[0]
    return read_series(series.paths).volume


def without(export: Export, series: list[AnySeries], entries: list[LeftOut]) -> Export:
    """Return the export without some series, whose files are left out."""
    gone = {id(one) for one in series}
    return replace(
        export,
        dicom=tuple(one for one in export.dicom if id(one) not in gone),
        nifti=tuple(one for one in export.nifti if id(one) not in gone),
        left_out=(*export.left_out, *entries),
    )
