"""The DICOMDIR of an output whose source has one: made anew from what is in the output."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Index
from salm_dicom.batch.names import for_media
from salm_dicom.batch.nifti import PREFIX
from salm_dicom.dicom.index import INDEX, index_of, uid_of
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.dicom.uids import new_uid
from salm_dicom.errors import NotImage
from salm_dicom.folder import atomic

# Names that an instance has in an output with a DICOMDIR.
_IN_INDEX = re.compile(r"[A-Z]{2}\d{6}")


def write_index(
    catalog: Catalog, output: Path, ledger: Ledger, site_key: bytes, digest: str
) -> Index | None:
    """Write the DICOMDIR; return how much is in it, or None where there is none."""
    if not catalog.indexes() or not for_media(catalog, ledger):
        return None
    files: list[Path] = []
    for row in chain(ledger.rows(), ledger.rows("objects")):
        place = output / row.name
        if row.done and not row.name.startswith(PREFIX):
            files += sorted(place.iterdir()) if place.is_dir() else [place]
    return _written(output, files, new_uid(site_key, digest, "index", ""))


def _written(output: Path, files: list[Path], uid: str) -> Index | None:
    data, lacking = index_of(output, sorted(files), uid)
    if not data:
        return None
    with atomic(output / INDEX) as stream:
        stream.write(data)
    return Index(instances=len(files) - len(lacking), lacking=len(lacking))


def renew_index(output: Path) -> None:
    """Make the DICOMDIR of an output agree with its files; it keeps its UID."""
    place = output / INDEX
    if not place.is_file():
        return
    files = [p for p in output.rglob("*") if p.is_file() and _IN_INDEX.fullmatch(p.name)]
    if _written(output, files, uid_of(place)) is None:
        place.unlink()


def not_indexed(catalog: Catalog, index: Index | None) -> list[LeftOut]:
    """Return the source's DICOMDIRs where the output got none."""
    text = (
        "a DICOMDIR is never copied, and none was made: no instance has what one needs, or the "
        "output was begun without one (use a new output folder)"
    )
    return [LeftOut(path, NotImage.code, text) for path in catalog.indexes() if index is None]
