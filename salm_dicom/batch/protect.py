"""Protect an export: scan, fit if asked for, one job for each series, a manifest to share."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from salm_dicom.batch.index import not_indexed, write_index
from salm_dicom.batch.job import Job, protect_series
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.ledger import Ledger, Row
from salm_dicom.batch.manifest import Done, Index, Result, note_decisions, write_manifest
from salm_dicom.batch.names import plan_names
from salm_dicom.batch.nifti import note_images
from salm_dicom.batch.objects import alone, copied_objects, copy_object, object_jobs
from salm_dicom.batch.places import check_output, check_places
from salm_dicom.batch.run import run
from salm_dicom.batch.selection import Selection, chosen
from salm_dicom.batch.settle import planned, settle
from salm_dicom.batch.source import AnySeries, Export, find, source_key, without
from salm_dicom.batch.source import load as load_volume
from salm_dicom.batch.uids import write_uids
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import Changed, DiskFull, NoLabel, PlanError, Rejected, UnsafeError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, load, save
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Volume

if TYPE_CHECKING:
    from salm_dicom.protector.fit import Study

Labelled = tuple[AnySeries, str | None]
# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an operator asked for.

    Parameters
    ----------
    source, output, vault
        The export (read only), the folder to share, the folder to keep.
    plan
        Settings for a fit on the way or a method without one; not used with `protector`.
    protector
        Folder of a fitted protector, or None.
    labels
        Labels of the series, or None.
    created
        When the run began; a resumed run keeps the first one's.
    site_key
        Key of the new UIDs.
    jobs
        Worker processes; 1 works in this process.
    modality
        Of NIfTI files whose sidecar does not say.
    selection
        Which series and objects; what an earlier run wrote stays.
    recipients
        Certificates, DER, of those who can restore DICOM sources from the output alone.
    """

    source: Path
    output: Path
    vault: Path
    plan: ProtectionPlan
    protector: Path | None
    labels: Labels | None
    created: datetime
    site_key: bytes
    jobs: int = 1
    modality: str | None = None
    selection: Selection = field(default_factory=Selection)
    recipients: tuple[bytes, ...] = ()


def protect(request: Request, progress: Progress = lambda *_: None) -> Result:
    """Protect every series of an export that can be; a second run finishes what is missing.

    Raises
    ------
    UnsafeError, PlanError, Locked, DiskFull, NoLabel
    """
    check_places(request.source, request.output, request.vault)
    found = find(request.source, request.modality)
    if not found.series:
        return Result(done=(), left_out=(*found.left_out, *alone(found)), resumed=0)
    vault = Vault(request.vault)
    vault.create()
    with vault.locked(), Ledger.open(vault.ledger) as ledger:
        check_output(request.output, ledger)
        given = None if request.protector is None else load(request.protector)
        plan = given.plan if given else request.plan
        known = [*ledger.rows().values(), *ledger.rows("objects").values()]
        found = chosen(found, request.selection, {row.source for row in known if row.done})
        if not found.series:
            return Result(done=(), left_out=(*found.left_out, *alone(found)), resumed=0)
        found = _without_changed(found, ledger.rows())
        labelled, unlabelled = labelled_series(found, plan, request.labels)
        protector = given or _fitted(request, vault, labelled, progress)
        save(protector, vault.protector)
        created = ledger.begin(_digest(request, protector), request.created)
        request.output.mkdir(parents=True, exist_ok=True, mode=0o700)
        plan_names(found, ledger)
        plan_of = partial(planned, found.objects, labelled, protector, request.site_key)
        write_uids(vault.uids, chain.from_iterable(pairs for _, _, pairs in plan_of()))
        before = ledger.rows()
        note_images(vault, [(before[source_key(one)].name, one.path) for one in found.nifti])
        todo = [
            _job(request, vault, created, series, before[source_key(series)].name, label)
            for series, label in labelled
            if not _is_done(request.output, before[source_key(series)])
        ]
        for job in todo:  # what a killed run left of it goes
            shutil.rmtree(job.output / job.name, ignore_errors=True)
        log = run(todo, protect_series, request.jobs, ledger, "series", progress)
        objects = object_jobs(
            found.objects, ledger.rows("objects"), request.output, vault, created, protector.digest
        )
        log += run(objects, copy_object, request.jobs, ledger, "objects", progress)
        settle(request.output, ledger, plan_of)
        index = write_index(found, request.output, ledger, request.site_key, protector.digest)
        left_out = [*found.left_out, *unlabelled, *not_indexed(found, index)]
        result = _result(found, left_out, ledger, len(labelled) - len(todo), log, index)
        try:
            write_manifest(request.output, protector, created, result)
            note_decisions(request.output, ledger.reviewed())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("no space left for the manifest; run the same again") from error
            raise
    return result


def _digest(request: Request, protector: Protector) -> str:
    """Return what may not change between the runs that make one output."""
    return ":".join((protector.digest, *(sha256(one).hexdigest() for one in request.recipients)))


def labelled_series(
    found: Export, plan: ProtectionPlan, labels: Labels | None
) -> tuple[list[Labelled], list[LeftOut]]:
    """Return the series to protect with their labels, and those that lack one they need."""
    if not plan.needs_surrogate:
        return [(series, None) for series in found.series], []
    if labels is None:
        raise PlanError(
            f"method {plan.method} needs labels: give --labels labels.csv, "
            "or use --method random, which needs none"
        )
    labelled: list[Labelled] = []
    missing: list[LeftOut] = []
    for series in found.series:
        try:
            labelled.append((series, labels.of(series)))
        except NoLabel as error:
            missing += [LeftOut(path, error.code, str(error)) for path in series.paths]
    if not labelled:
        raise NoLabel("no series of the export has a label; is --labels-by right?")
    return labelled, missing


def _fitted(
    request: Request, vault: Vault, labelled: list[Labelled], progress: Progress
) -> Protector:
    """Return the protector of a run that was given none: from the vault, or fitted now."""
    if not request.plan.needs_surrogate:
        return Protector(plan=request.plan)
    if (vault.protector / "protector.json").exists():
        protector = load(vault.protector)
        if protector.plan != request.plan:
            raise UnsafeError(
                "the vault holds a protector with other settings; use a new output folder"
            )
        return protector
    from salm_dicom.protector.fit import fit  # with torch, which takes a second

    return fit(studies(labelled), request.plan, vault.folder, progress)


def studies(labelled: list[Labelled]) -> list[Study]:
    """Return what a fit needs of labelled series; each is read when it is its turn."""
    from salm_dicom.protector.fit import Study

    def loader(series: AnySeries) -> Callable[[], Volume]:
        return lambda: load_volume(series)

    return [Study(label=str(label), load=loader(series)) for series, label in labelled]


def _is_done(output: Path, row: Row) -> bool:
    """Return whether a series need not be done again; one that was rejected stays so."""
    return row.code == Rejected.code or (row.done and (output / row.name).is_dir())


def _job(
    request: Request,
    vault: Vault,
    created: datetime,
    series: AnySeries,
    name: str,
    label: str | None,
) -> Job:
    return Job(
        source=source_key(series),
        name=name,
        paths=series.paths,
        label=label,
        protector=vault.protector,
        output=request.output,
        vault=vault.folder,
        created=created,
        site_key=request.site_key,
        modality=series.modality,
        recipients=request.recipients,
    )


def _without_changed(found: Export, rows: dict[str, Row]) -> Export:
    """Leave out series whose protected volume is no longer in the source as it was.

    Protecting them again would give one SOP Instance UID to two files with different pixels.
    """
    here = {source_key(series) for series in found.series}
    kept = {source for source, row in rows.items() if row.done or row.code == Rejected.code}
    lost = {source.split("/")[0] for source in kept - here}
    changed = [
        series
        for series in found.series
        if source_key(series) not in rows and series.series_uid in lost
    ]
    text = "the series has other slices than when it was protected; use a new output folder"
    entries = [LeftOut(path, Changed.code, text) for one in changed for path in one.paths]
    return without(found, changed, entries)


def _result(
    found: Export,
    left_out: list[LeftOut],
    ledger: Ledger,
    resumed: int,
    log: list[str],
    index: Index | None,
) -> Result:
    rows, done = ledger.rows(), list[Done]()
    for series in found.series:
        row = rows[source_key(series)]
        if row.done and row.slices != series.images:
            text = (
                f"the series has {series.images} slices, {row.slices} were there when it was "
                "protected; use a new output folder"
            )
            left_out += [LeftOut(path, Changed.code, text) for path in series.paths]
        if row.done:
            record = ProtectionRecord.from_json(row.record)
            done.append(
                Done(name=row.name, slices=row.slices, modality=series.modality, record=record)
            )
        elif row.code:
            left_out += [LeftOut(path, row.code, row.reason) for path in series.paths]
    copies, not_copied = copied_objects(found.objects, ledger.rows("objects"))
    left_out += not_copied
    left_out.sort(key=lambda entry: str(entry.path))
    return Result(
        done=tuple(done),
        copied=copies,
        index=index,
        left_out=tuple(left_out),
        resumed=resumed,
        log=tuple(log),
    )
