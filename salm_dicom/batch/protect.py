"""Protect an export: scan, fit if asked for, one job for each series, a manifest to share."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Index, Result, note_decisions, write_manifest
from salm_dicom.batch.names import plan_names
from salm_dicom.batch.nifti import note_images
from salm_dicom.batch.objects import alone, copy_object, leave_out_objects, object_jobs
from salm_dicom.batch.places import check_output, check_places
from salm_dicom.batch.pool import in_order, pool
from salm_dicom.batch.request import Request
from salm_dicom.batch.results import leave_out_failed, result_of
from salm_dicom.batch.review import Rejected
from salm_dicom.batch.run import run
from salm_dicom.batch.selection import choose
from salm_dicom.batch.settle import Planned, planned, settle
from salm_dicom.batch.source import fill, read_chunk
from salm_dicom.batch.uids import write_uids
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.errors import DiskFull, PlanError, UnsafeError
from salm_dicom.protector import Protector, load, save
from salm_dicom.protector.device import other_kind

__all__ = ["Progress", "Request", "protect"]

# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]


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
    protector = _protector(request, vault, catalog, ledger, progress)
    cleaner = deidentifier_of(vault, request.deidentify)
    work = _Work(
        request=request,
        vault=vault,
        catalog=catalog,
        ledger=ledger,
        progress=progress,
        protector=protector,
        cleaner=cleaner,
        created=ledger.begin(_digest(request, protector, cleaner), request.created),
    )
    work.give_names()
    resumed, log = work.protect_all()
    log += work.copy_objects()
    index = work.finish_output()
    result = result_of(vault, resumed=resumed, log=log, index=index)
    work.tell(result)
    return result


def _protector(
    request: Request, vault: Vault, catalog: Catalog, ledger: Ledger, progress: Progress
) -> Protector:
    """Return the protector, saved in the vault; series that it cannot protect are left out."""
    given = None if request.protector is None else load(request.protector)
    plan = given.plan if given else request.plan
    leave_out_changed(catalog, ledger)
    leave_out_large(catalog, ledger, plan, request.max_memory)
    label(catalog, plan, Asked(source=request.source, labels=request.labels, masks=request.masks))
    found = given or _fitted(request, vault, catalog, progress)
    protector = replace(found, device=request.device)
    save(protector, vault.protector)
    return protector


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What the steps of a run share once it has its protector; each step once, in this order."""

    request: Request
    vault: Vault
    catalog: Catalog
    ledger: Ledger
    progress: Progress
    protector: Protector
    cleaner: Deidentifier | None
    created: datetime

    def give_names(self) -> None:
        """Note folders and new UIDs in the vault, before a file has them."""
        self.request.output.mkdir(parents=True, exist_ok=True, mode=0o700)
        plan_names(self.catalog, self.ledger)
        write_uids(self.vault.uids, chain.from_iterable(pairs for _, _, pairs in self._planned()))
        note_images(self.vault, self._images())
        shutil.rmtree(self.vault.begun, ignore_errors=True)
        self.catalog.connection.commit()

    def protect_all(self) -> tuple[int, list[str]]:
        """Protect every series; return how many earlier runs did, and the log."""
        todo = sum(1 for _ in self._todo())
        resumed = self.catalog.count(where="is_in AND is_labelled") - todo
        who = self.request.jobs, self.request.engine
        at_once = 0 if "://" in self.request.engine else self.request.max_memory
        log = run(
            self._jobs(), todo, protect_series, *who, self.ledger, "series", self.progress, at_once
        )
        return resumed, log

    def copy_objects(self) -> list[str]:
        """Copy every object; return the log."""
        places = self.request.output, self.vault, self.created, self.protector.digest, self.cleaner
        count = sum(1 for _ in object_jobs(self.catalog, self.ledger, *places))
        seconds = self.request.max_seconds_per_file
        jobs = object_jobs(self.catalog, self.ledger, *places, seconds)
        who = self.request.jobs, self.request.engine
        return run(jobs, count, copy_object, *who, self.ledger, "objects", self.progress)

    def finish_output(self) -> Index | None:
        """Make references and DICOMDIR agree with what is there; leave out what is not."""
        output, catalog, ledger = self.request.output, self.catalog, self.ledger
        settle(output, ledger, self._planned)
        index = write_index(catalog, output, ledger, self.request.site_key, self.protector.digest)
        catalog.leave_out(not_indexed(catalog, index))
        leave_out_failed(catalog, ledger)
        leave_out_objects(catalog, ledger)
        catalog.connection.commit()
        return index

    def tell(self, result: Result) -> None:
        """Write what came of it beside the files."""
        output, cleaned = self.request.output, self.request.deidentify
        try:
            write_manifest(output, self.protector, self.created, result, cleaned)
            note_decisions(output, self.ledger.reviewed())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull("no space left for the manifest; run the same again") from error
            raise

    @property
    def _planned(self) -> Planned:
        old = self.cleaner.uid if self.cleaner else str
        return partial(planned, self.catalog, self.protector, self.request.site_key, old)

    def _images(self) -> Iterator[tuple[str, Path]]:
        """Yield the folder of each NIfTI file, and the file."""
        for entry in self.catalog.series("is_in AND kind = 'nifti'"):
            row = self.ledger.row(entry.key)
            if row:
                yield row.name, entry.series.paths[0]

    def _todo(self) -> Iterator[tuple[int, str]]:
        """Yield number in the catalog and name of each series that is to be done."""
        for number, key in self.catalog.pages("key", where="is_in AND is_labelled"):
            row = self.ledger.row(key)
            if row is None or row.code == Rejected.code:
                continue
            if not (row.done and (self.request.output / row.name).is_dir()):
                yield number, row.name

    def _jobs(self) -> Iterator[Job]:
        """Yield a job for each series that is to be done."""
        request = self.request
        for number, name in self._todo():
            entry = self.catalog.entry(number)
            yield Job(
                source=entry.key,
                name=name,
                paths=tuple(path.absolute() for path in entry.series.paths),
                label=entry.label,
                protector=self.vault.protector.absolute(),
                output=request.output.absolute(),
                vault=self.vault.folder.absolute(),
                created=self.created,
                site_key=request.site_key,
                modality=entry.series.modality,
                recipients=request.recipients,
                quantity=entry.series.quantity,
                deidentifier=self.cleaner,
                bounds=Bounds(
                    seconds=request.max_seconds_per_file * entry.series.images,
                    memory=memory_of(entry.series.voxels, entry.series.images, self.protector.plan),
                ),
                device=request.device,
            )
