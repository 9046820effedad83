"""One series, disk to disk: read, perturb, write; and what came of it.

The same steps as LoadVolume, SALM and SaveVolume on integers all the way, which saves two
copies of the volume; a test shows that both give the same bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar

from salm_dicom.batch.bounds import NO_BOUNDS, Bounds
from salm_dicom.batch.deidentify import burned_in
from salm_dicom.batch.masks import Chosen
from salm_dicom.batch.nifti import keep_frames
from salm_dicom.batch.uids import opened
from salm_dicom.batch.vault import KeptWriter, Vault
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.derive import Derivation
from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.errors import (
    InputError,
    MismatchError,
    PlanError,
    TimedOut,
    UnexpectedFailure,
    WorkerCrashed,
)
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.series import read_nifti, write_nifti
from salm_dicom.protector import Mask, Protector, loaded
from salm_dicom.record import widest
from salm_dicom.trace import frames
from salm_dicom.volume import Integers, StoredPixels, Volume

NO_SPACE = "E_NO_SPACE"
# So often may a series be under way when its worker dies.
CRASHES = 3


class Work(Protocol):
    """What a job says about itself, whatever is to be done."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def output(self) -> Path: ...  # noqa: D102
    @property
    def vault(self) -> Path: ...  # noqa: D102
    @property
    def bounds(self) -> Bounds: ...  # noqa: D102
    @property
    def places(self) -> tuple[Path, ...]: ...  # noqa: D102


J = TypeVar("J", bound=Work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs for one series; small, picklable, the same on every engine.

    Parameters
    ----------
    label
        As the catalog has it; of masks what `masks.Chosen` makes a text of.
    """

    source: str
    name: str
    paths: tuple[Path, ...]
    label: str | None
    protector: Path
    output: Path
    vault: Path
    created: datetime
    site_key: bytes
    modality: str | None = None
    recipients: tuple[bytes, ...] = ()
    quantity: str = ""
    deidentifier: Deidentifier | None = None
    bounds: Bounds = NO_BOUNDS
    device: str = "cpu"

    @property
    def places(self) -> tuple[Path, ...]:
        """What a worker must see."""
        return self.output, self.vault


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job: a record, or a code and a reason; `frames` for the log file only."""

    source: str
    name: str
    record: str = ""
    code: str = ""
    reason: str = ""
    frames: str = ""


def protect_series(job: Job) -> Outcome:
    """Protect one series; everything that can go wrong with it is in the outcome."""
    return outcome_of(job, _run)


def outcome_of(job: J, work: Callable[[J], str]) -> Outcome:
    """Return what came of a job: the record that `work` returns, or why there is none."""
    try:
        return Outcome(source=job.source, name=job.name, record=work(job))
    except (InputError, MismatchError, PlanError) as error:
        return _failed(job, error.code, str(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a codec in Rust panics past Exception
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failed(job, NO_SPACE, "no space left for the output")
        kind = f"an unforeseen {type(error).__name__}; --log-file has where it happened"
        return _failed(job, UnexpectedFailure.code, kind, frames())


def _run(job: Job) -> str:
    if is_nifti(job.paths[0]):
        return _run_nifti(job)
    series = read_series(job.paths, keep_files=True)
    protector = replace(loaded(job.protector), device=job.device)
    volume = replace(series.volume, quantity=job.quantity or series.volume.quantity)
    instances = [identity_of(kept.part10).sop_uid for kept in series.origin.files]
    label = _label(job, protector, volume, instances, series.origin.frames)
    found = protector.apply(volume, series_uid=series.series_uid, label=label)
    vault, kept = Vault(job.vault), KeptWriter()

    def change_of(index: int, before: StoredPixels) -> Integers:
        return found.delta[index : index + len(before.values)]

    record = found.record
    if job.deidentifier is not None:
        warned = burned_in(series.origin.files[0].part10, volume.modality)
        record = replace(record, warnings=(*record.warnings, *warned))
    with opened(vault.uids) as new:
        derivation = Derivation(
            record=record,
            created=job.created,
            site_key=job.site_key,
            references=new,
            recipients=job.recipients,
            deidentified=job.deidentifier,
        )
        write_series(series.origin, change_of, job.output / job.name, derivation, kept.add)
    kept.write(vault.kept(job.name))
    return record.to_json()


def _run_nifti(job: Job) -> str:
    """Protect one file, frame by frame, and return the widest record of its frames."""
    series = read_nifti(job.paths[0], job.modality, allow_quantitative=bool(job.quantity))
    protector = replace(loaded(job.protector), device=job.device)
    found = [
        protector.apply(volume, series_uid=series.series_uid, label=_label(job, protector, volume))
        for volume in series.volumes
    ]
    record = widest([one.record for one in found])
    write_nifti(
        series.origin,
        lambda frame, _: found[frame].delta,
        job.output / job.name,
        record,
        modality=series.volumes[0].modality,
        created=job.created,
    )
    kept = Vault(job.vault).kept(job.name)
    keep_frames(kept, series, [one.delta for one in found])
    return record.to_json()


def _label(
    job: Job,
    protector: Protector,
    volume: Volume,
    instances: Sequence[str] = (),
    frames: Sequence[int] = (),
) -> str | Mask | None:
    """Return the label of a series, or the mask that its text stands for."""
    if job.label is None or not protector.plan.needs_masks:
        return job.label
    return Chosen.from_text(job.label).on(volume, instances, frames)


def crashed(job: Work) -> Outcome:
    """Return the outcome of a series that killed its worker."""
    reason = f"the process that worked on it died {CRASHES} times (out of memory?)"
    return _failed(job, WorkerCrashed.code, reason)


def late(job: Work, frames: str) -> Outcome:
    """Return the outcome of a job whose process was ended because of it."""
    reason = (
        f"was not done after {job.bounds.seconds:g} seconds and was ended (--max-seconds-per-file)"
    )
    return _failed(job, TimedOut.code, reason, frames)


def _failed(job: Work, code: str, reason: str, frames: str = "") -> Outcome:
    return Outcome(source=job.source, name=job.name, code=code, reason=reason, frames=frames)
