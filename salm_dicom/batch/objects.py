"""Objects that are not perturbed: copies whose references lead to the protected instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from pathlib import Path

from salm_dicom.batch.job import Outcome, outcome_of
from salm_dicom.batch.ledger import Row
from salm_dicom.batch.manifest import Copied
from salm_dicom.batch.source import Export
from salm_dicom.batch.uids import opened
from salm_dicom.batch.vault import Vault, atomic, write_kept_object
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.objects import ObjectHeader, copied
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.restore import keep_object
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import NotImage
from salm_dicom.folder import flush, make_private


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
    objects: tuple[ObjectHeader, ...],
    rows: Mapping[str, Row],
    output: Path,
    vault: Vault,
    created: datetime,
    digest: str,
    deidentifier: Deidentifier | None = None,
) -> list[ObjectJob]:
    """Return a job for each object that is not in the output yet."""
    return [
        ObjectJob(
            source=one.sop_uid,
            name=rows[one.sop_uid].name,
            kind=one.kind,
            path=one.path,
            output=output,
            vault=vault.folder,
            created=created,
            digest=digest,
            deidentifier=deidentifier,
        )
        for one in objects
        if not (rows[one.sop_uid].done and (output / rows[one.sop_uid].name).is_file())
    ]


def copied_objects(
    objects: Iterable[ObjectHeader], rows: Mapping[str, Row]
) -> tuple[tuple[Copied, ...], list[LeftOut]]:
    """Return the objects that are in the output, and those that could not be copied."""
    copies: list[Copied] = []
    left_out: list[LeftOut] = []
    for one in objects:
        row = rows[one.sop_uid]
        if row.done:
            copies.append(Copied(name=row.name, kind=one.kind))
        elif row.code:
            left_out.append(LeftOut(one.path, row.code, row.reason))
    return tuple(sorted(copies, key=attrgetter("name"))), left_out


def alone(found: Export) -> list[LeftOut]:
    """Return the objects and DICOMDIRs of an export without an image that can be protected."""
    text = "the export has no image that can be protected, so nothing is copied"
    paths = [*(one.path for one in found.objects), *found.indexes]
    return [LeftOut(path, NotImage.code, text) for path in paths]
