"""Objects that are not perturbed: copies whose references lead to the protected instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from salm_dicom.batch.bounds import NO_BOUNDS, Bounds
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.job import Outcome, outcome_of
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Copied
from salm_dicom.batch.uids import opened
from salm_dicom.batch.vault import Vault, write_kept_object
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.objects import copied
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.restore import keep_object
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import NotImage
from salm_dicom.folder import atomic, flush, make_private


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectJob:
    """What a worker needs to copy one object; `source` is its SOP Instance UID."""

    source: str
    name: str
    kind: str
    path: Path
    output: Path
    vault: Path
    created: datetime
    digest: str
    deidentifier: Deidentifier | None = None
    bounds: Bounds = NO_BOUNDS

    @property
    def places(self) -> tuple[Path, ...]:
        """What a worker must see."""
        return self.output, self.vault


def copy_object(job: ObjectJob) -> Outcome:
    """Copy one object; everything that can go wrong with it is in the outcome."""
    return outcome_of(job, _run)


def _run(job: ObjectJob) -> str:
    """Write the copy and what its restoration needs; return what the ledger notes."""
    source = read(job.path)
    vault = Vault(job.vault)
    with opened(vault.uids) as new:
        clean = source if job.deidentifier is None else job.deidentifier(source)
        data = copied(clean, new, job.created, job.digest)
    write_kept_object(vault.kept_object(job.name), keep_object(source, parse(data)))
    path = job.output / job.name
    make_private(path.parent)
    with atomic(path) as stream:
        stream.write(data)
    flush(path.parent)
    return job.kind


def object_jobs(
    catalog: Catalog,
    ledger: Ledger,
    output: Path,
    vault: Vault,
    created: datetime,
    digest: str,
    deidentifier: Deidentifier | None = None,
    seconds: float = 0.0,
) -> Iterator[ObjectJob]:
    """Yield a job for each object that is not in the output yet."""
    for one in catalog.objects():
        row = ledger.row(one.sop_uid, "objects")
        if row and not (row.done and (output / row.name).is_file()):
            yield ObjectJob(
                source=one.sop_uid,
                name=row.name,
                kind=one.kind,
                path=one.path.absolute(),
                output=output.absolute(),
                vault=vault.folder.absolute(),
                created=created,
                digest=digest,
                deidentifier=deidentifier,
                bounds=Bounds(seconds=seconds),
            )


def leave_out_objects(catalog: Catalog, ledger: Ledger) -> None:
    """Leave out the objects that could not be copied."""
    for one in catalog.objects():
        row = ledger.row(one.sop_uid, "objects")
        if row and not row.done and row.code:
            catalog.leave_out([LeftOut(one.path, row.code, row.reason)])


def copied_objects(catalog: Catalog, ledger: Ledger) -> Iterator[Copied]:
    """Yield the objects that are in the output, by name."""
    for row in ledger.rows("objects"):
        one = catalog.object(row.source) if row.done else None
        if one is not None:
            yield Copied(name=row.name, kind=one.kind)


def alone(catalog: Catalog) -> list[LeftOut]:
    """Return the objects and DICOMDIRs of an export without an image that can be protected."""
    text = "the export has no image that can be protected, so nothing is copied"
    paths = [*(one.path for one in catalog.objects()), *catalog.indexes()]
    return [LeftOut(path, NotImage.code, text) for path in paths]
