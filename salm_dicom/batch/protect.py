"""Protect an export: scan, fit if asked for, one job for each series, a manifest to share."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path

from salm_dicom.batch import engines
from salm_dicom.batch.bounds import Bounds, memory_of
from salm_dicom.batch.candidates import Asked, label, leave_out_changed, leave_out_large, studies
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.deidentify import deidentifier_of, leave_out_uncleanable
from salm_dicom.batch.index import not_indexed, write_index
from salm_dicom.batch.job import Job, protect_series
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Result, note_decisions, write_manifest
from salm_dicom.batch.names import plan_names
from salm_dicom.batch.nifti import note_images
from salm_dicom.batch.objects import alone, copy_object, leave_out_objects, object_jobs
from salm_dicom.batch.places import check_output, check_places
from salm_dicom.batch.pool import in_order, pool
from salm_dicom.batch.results import leave_out_failed, result_of
from salm_dicom.batch.review import Rejected
from salm_dicom.batch.run import run
from salm_dicom.batch.selection import Selection, choose
from salm_dicom.batch.settle import planned, settle
from salm_dicom.batch.source import fill, read_chunk
from salm_dicom.batch.uids import write_uids
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.errors import DiskFull, PlanError, UnsafeError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, load, save
from salm_dicom.protector.device import other_kind

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
    masks
        File or folder of masks, which are the labels of objective segmentation, or None.
    created
        When the run began; a resumed run keeps the first one's.
    site_key
        Key of the new UIDs.
    jobs
        Worker processes of the local engine; 1 works in this process.
    engine
        Who runs the jobs; see `engines.start`.
    max_memory
        Bytes that series in work may need together, on a cluster each of them; 0: no bound.
    max_seconds_per_file
        A series that takes longer for each of its files or frames is ended; 0: no bound.
    modality
        Of NIfTI files whose sidecar does not say.
    selection
        Which series and objects; what an earlier run wrote stays.
    recipients
        Certificates, DER, of those who can restore DICOM sources from the output alone.
    allow_quantitative
        Protect images whose values are measurements, too (`salm_dicom.quantity`).
    deidentify
        De-identify every instance before it is protected (`salm_dicom.dicom.deidentify`).
    device
        Where surrogates run, in every worker; see `protector.device.device_of`.
    """

    source: Path
    output: Path
    vault: Path
    plan: ProtectionPlan
    protector: Path | None
    labels: Labels | None
    created: datetime
    site_key: bytes
    masks: Path | None = None
    jobs: int = 1
    engine: str = "local"
    max_memory: int = 0
    max_seconds_per_file: float = 0.0
    modality: str | None = None
    selection: Selection = field(default_factory=Selection)
    recipients: tuple[bytes, ...] = ()
    allow_quantitative: bool = False
    deidentify: bool = False
    device: str = "cpu"


def protect(request: Request, progress: Progress = lambda *_: None) -> Result:
    """Protect every series of an export that can be; a second run finishes what is missing.

    Raises
    ------
    UnsafeError, PlanError, Locked, DiskFull, NoLabel
    """
    check_places(request.source, request.output, request.vault)
    if request.deidentify and request.recipients:
        raise PlanError(
            "an envelope holds the source, who it is of included; not with --deidentify"
        )
    engines.check(request.engine)
    if request.engine == "serial" and request.max_seconds_per_file:
        raise PlanError("the serial engine cannot end what takes too long; use --engine local")
    vault = Vault(request.vault)
    is_new = not vault.folder.exists()
    vault.create()
    with (
        vault.locked(),
        Catalog.new(vault.catalog) as catalog,
        Ledger.open(vault.ledger) as ledger,
    ):
        # on another machine a relative path means something else
        is_here = "://" in request.engine and not request.source.is_absolute()
        engine = "serial" if is_here else request.engine
        read = partial(in_order, read_chunk, request.jobs, engine)
        quantitative = request.allow_quantitative
        fill(catalog, request.source, request.modality, read, allow_quantitative=quantitative)
        if request.deidentify:
            leave_out_uncleanable(catalog)
        if catalog.count():
            check_output(request.output, ledger)
            choose(catalog, request.selection, ledger.is_done)
        if catalog.count():
            return _protect(request, vault, catalog, ledger, progress)
        left_out = (*catalog.left_out(), *alone(catalog))
    if is_new:
        shutil.rmtree(vault.folder)
    return Result(done=(), left_out=left_out, resumed=0)


def _protect(
    request: Request, vault: Vault, catalog: Catalog, ledger: Ledger, progress: Progress
) -> Result:
    """Protect what is in the catalog."""
    given = None if request.protector is None else load(request.protector)
    plan = given.plan if given else request.plan
    leave_out_changed(catalog, ledger)
    leave_out_large(catalog, ledger, plan, request.max_memory)
    asked = Asked(source=request.source, labels=request.labels, masks=request.masks)
    label(catalog, plan, asked)
    fitted = given or _fitted(request, vault, catalog, progress)
    protector = replace(fitted, device=request.device)
    save(protector, vault.protector)
    cleaner = deidentifier_of(vault, request.deidentify)
    created = ledger.begin(_digest(request, protector, cleaner), request.created)
    request.output.mkdir(parents=True, exist_ok=True, mode=0o700)
    plan_names(catalog, ledger)
    old = cleaner.uid if cleaner else str
    plan_of = partial(planned, catalog, protector, request.site_key, old)
    write_uids(vault.uids, chain.from_iterable(pairs for _, _, pairs in plan_of()))
    note_images(vault, _images(catalog, ledger))
    shutil.rmtree(vault.begun, ignore_errors=True)
    catalog.connection.commit()
    labelled = catalog.count(where="is_in AND is_labelled")
    todo = sum(1 for _ in _todo(request.output, catalog, ledger))
    who = request.jobs, request.engine
    jobs = _jobs(request, vault, created, plan, cleaner, catalog, ledger)
    at_once = 0 if "://" in request.engine else request.max_memory
    log = run(jobs, todo, protect_series, *who, ledger, "series", progress, at_once)
    places = request.output, vault, created, protector.digest, cleaner
    copies = sum(1 for _ in object_jobs(catalog, ledger, *places))
    objects = object_jobs(catalog, ledger, *places, request.max_seconds_per_file)
    log += run(objects, copies, copy_object, *who, ledger, "objects", progress)
    settle(request.output, ledger, plan_of)
    index = write_index(catalog, request.output, ledger, request.site_key, protector.digest)
    catalog.leave_out(not_indexed(catalog, index))
    leave_out_failed(catalog, ledger)
    leave_out_objects(catalog, ledger)
    catalog.connection.commit()
    result = result_of(vault, resumed=labelled - todo, log=log, index=index)
    try:
        write_manifest(request.output, protector, created, result, request.deidentify)
        note_decisions(request.output, ledger.reviewed())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("no space left for the manifest; run the same again") from error
        raise
    return result


def _digest(request: Request, protector: Protector, cleaner: Deidentifier | None) -> str:
    """Return what may not change between the runs that make one output."""
    recipients = (sha256(one).hexdigest() for one in request.recipients)
    quantitative = ["quantitative"] * request.allow_quantitative
    cleaned = [sha256(cleaner.key).hexdigest()] if cleaner else []
    kind = other_kind(request.device)
    return ":".join((protector.digest, *recipients, *quantitative, *cleaned, *kind))


def _fitted(request: Request, vault: Vault, catalog: Catalog, progress: Progress) -> Protector:
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

    found, _ = studies(catalog, request.plan)
    with pool(request.engine, request.jobs) as workers:
        return fit(
            found,
            request.plan,
            vault.folder,
            progress,
            device=request.device,
            each=workers.each,
            keep=lambda protector: save(protector, vault.protector),
        )


def _images(catalog: Catalog, ledger: Ledger) -> Iterator[tuple[str, Path]]:
    """Yield the folder of each NIfTI file, and the file."""
    for entry in catalog.series("is_in AND kind = 'nifti'"):
        row = ledger.row(entry.key)
        if row:
            yield row.name, entry.series.paths[0]


def _todo(output: Path, catalog: Catalog, ledger: Ledger) -> Iterator[tuple[int, str]]:
    """Yield number in the catalog and name of each series that is to be done."""
    for number, key in catalog.pages("key", where="is_in AND is_labelled"):
        row = ledger.row(key)
        if row and row.code != Rejected.code and not (row.done and (output / row.name).is_dir()):
            yield number, row.name


def _jobs(
    request: Request,
    vault: Vault,
    created: datetime,
    plan: ProtectionPlan,
    cleaner: Deidentifier | None,
    catalog: Catalog,
    ledger: Ledger,
) -> Iterator[Job]:
    """Yield a job for each series that is to be done."""
    for number, name in _todo(request.output, catalog, ledger):
        entry = catalog.entry(number)
        yield Job(
            source=entry.key,
            name=name,
            paths=tuple(path.absolute() for path in entry.series.paths),
            label=entry.label,
            protector=vault.protector.absolute(),
            output=request.output.absolute(),
            vault=vault.folder.absolute(),
            created=created,
            site_key=request.site_key,
            modality=entry.series.modality,
            recipients=request.recipients,
            quantity=entry.series.quantity,
            deidentifier=cleaner,
            bounds=Bounds(
                seconds=request.max_seconds_per_file * entry.series.images,
                memory=memory_of(entry.series.voxels, entry.series.images, plan),
            ),
            device=request.device,
        )
