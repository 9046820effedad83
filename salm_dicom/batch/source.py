"""What an export holds: DICOM series and NIfTI files, found together, and every other file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from salm_dicom.batch.catalog import AnySeries, Catalog
from salm_dicom.batch.packing import Row, row_of
from salm_dicom.batch.sorting import sort
from salm_dicom.dicom.entries import LeftOut, admit, walk
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import DuplicatePosition, InputError, NotDicom, NotImage
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.scan import NiftiFile, inspect
from salm_dicom.nifti.series import read_nifti
from salm_dicom.nifti.sidecar import beside
from salm_dicom.volume import Volume

# Files whose headers are read in one go.
_CHUNK = 250


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

    All of it in memory; `fill` is for exports of any size.

    Parameters
    ----------
    modality
        Of NIfTI files whose sidecar does not say.
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """
    with Catalog.new() as catalog:
        fill(catalog, root, modality, allow_quantitative=allow_quantitative)
        return listed(catalog)


def listed(catalog: Catalog) -> Export:
    """Return what a catalog holds, in memory."""
    series = [entry.series for entry in catalog.series()]
    return Export(
        dicom=tuple(one for one in series if isinstance(one, SeriesFiles)),
        nifti=tuple(one for one in series if isinstance(one, NiftiFile)),
        objects=tuple(catalog.objects()),
        indexes=tuple(catalog.indexes()),
        left_out=tuple(catalog.left_out()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some files of an export, for a worker to read the headers of."""

    root: Path
    paths: tuple[Path, ...]
    allow_quantitative: bool = False

    @property
    def places(self) -> tuple[Path, ...]:
        """What a worker must see."""
        return (self.root,)


# A row for the catalog; a DICOMDIR; or why a file stays outside.
Header = Row | Path | LeftOut
Reader = Callable[[Iterable[Chunk]], Iterator[list[Header]]]


def read_chunk(chunk: Chunk) -> list[Header]:
    """Return what is to be known of some files, in their order."""
    found = (admit(path, chunk.root, chunk.allow_quantitative) for path in chunk.paths)
    return [one if isinstance(one, LeftOut | Path) else row_of(one) for one in found]


def fill(
    catalog: Catalog,
    root: Path,
    modality: str | None = None,
    read: Reader | None = None,
    *,
    allow_quantitative: bool = False,
) -> None:
    """Put what is in the folder (or single file) `root` into an empty catalog.

    Every file is read once and is in the catalog once.

    Parameters
    ----------
    modality
        Of NIfTI files whose sidecar does not say.
    read
        Applies `read_chunk` in other processes and yields what it returns, in order.
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """
    chunks = _chunks(catalog, root, allow_quantitative)
    for headers in read(chunks) if read else map(read_chunk, chunks):
        catalog.add(one for one in headers if isinstance(one, tuple))
        for one in headers:
            if isinstance(one, Path):
                catalog.add_index(one)
            elif isinstance(one, LeftOut):
                if one.code == NotDicom.code and is_nifti(one.path):
                    catalog.note_image(one.path)
                else:
                    catalog.leave_out([one])
    sort(catalog, allow_quantitative=allow_quantitative)
    for path in catalog.images():
        try:
            file = inspect(path, modality, allow_quantitative=allow_quantitative)
            if not catalog.add_nifti(file):
                raise DuplicatePosition("a copy of an image that is in the export already")
        except InputError as error:
            catalog.leave_out([LeftOut(path, error.code, str(error))])
        except Exception as error:
            catalog.leave_out([LeftOut.unforeseen(path, error)])
        text = "says what the NIfTI image beside it is; it is not copied"
        catalog.explain(beside(path), NotDicom.code, NotImage.code, text)


def _chunks(catalog: Catalog, root: Path, allow_quantitative: bool) -> Iterator[Chunk]:
    files = walk(root)
    while paths := list(islice(files, _CHUNK)):
        catalog.leave_out(one for one in paths if isinstance(one, LeftOut))
        yield Chunk(
            root=root,
            paths=tuple(one for one in paths if isinstance(one, Path)),
            allow_quantitative=allow_quantitative,
        )


def load(series: AnySeries) -> Volume:
    """Return the volume of a series; of a NIfTI file over time, the first."""
    if isinstance(series, NiftiFile):
        file = read_nifti(series.path, series.modality, allow_quantitative=bool(series.quantity))
        return file.volumes[0]
    return read_series(series.paths).volume
