"""Look at one series of an output beside its source: what a worker of `verify` does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from salm_dicom.batch.beside import beside
from salm_dicom.batch.compared import Compared, Measuring, Scope, tightest, unmeasured, worst
from salm_dicom.batch.pair import pairs_of
from salm_dicom.batch.verified import Verified
from salm_dicom.batch.verify_objects import Known
from salm_dicom.crew import ALONE, Crew
from salm_dicom.dicom.conformance import Finding
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import WorkerCrashed
from salm_dicom.fidelity import Limits, missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Beheld:
    """A series of the source, its protected files, and who looks at its slices.

    `pairs` has the files by the SOP Instance UID of their source.
    """

    series: SeriesFiles
    pairs: dict[str, list[Path]]
    crew: Crew = ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What was found for one series.

    Parameters
    ----------
    known, references
        Which UIDs became which, and those that it refers to.
    regions
        Numbers of the files with outlines that mark something on it.
    pixels
        What was measured, if that was asked for.
    """

    verified: Verified
    known: Known
    references: set[UidPair]
    regions: frozenset[int]
    pixels: tuple[Compared, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Look:
    """Looks at series; a worker is handed its own.

    Parameters
    ----------
    cleaner
        Of an output that was de-identified.
    keeps_pixels
        Whether the pixels are given back, which no other process can do.
    """

    output: Path
    scope: Scope
    limits: Limits
    window: tuple[float, float] | None
    cleaner: Deidentifier | None = None
    keeps_pixels: bool = False

    @cached_property
    def asked(self) -> Measuring:
        """What measures, made when first asked for: files with outlines or a model are read."""
        return self.scope.measuring(self.limits, self.window)

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def clean(self, file: Part10) -> Part10:
        """Return what a file of the source is compared as."""
        return file if self.cleaner is None else self.cleaner(file)

    def __call__(self, one: Beheld) -> Looked:
        """Return what was found for one series."""
        asked, known = self.asked, Known()
        asked.outlines.used.clear()
        seen = beside(one.series, one.pairs, known, self.clean, one.crew)
        instances = [instance.sop_uid for instance in one.series.headers]
        regions = asked.outlines.on_series(seen.volume, instances, seen.frames)
        found = asked.compared(
            pairs_of(seen.volume, seen.after, seen.mask, seen.has_after, regions, seen.extremes),
            seen.body_part,
            seen.findings,
            one.crew,
        )
        return Looked(
            verified=verified(
                folder_of(one.pairs.values(), self.output),
                seen.volume.modality,
                one.series.slices,
                seen.findings,
                found,
            ),
            known=known,
            references=seen.references,
            regions=frozenset(asked.outlines.used),
            pixels=found if self.keeps_pixels else (),
        )

    def lost(self, one: Beheld) -> Looked:
        """Return what is said of a series whose processes die."""
        reason = "the process that looked at it died again and again (out of memory?)"
        findings = [Finding(WorkerCrashed.code, reason)]
        name = folder_of(one.pairs.values(), self.output)
        return Looked(
            verified=verified(name, one.series.modality, one.series.slices, findings, ()),
            known=Known(),
            references=set(),
            regions=frozenset(),
        )


def verified(
    name: str,
    modality: str,
    slices: int,
    findings: Iterable[Finding],
    found: tuple[Compared, ...],
) -> Verified:
    """Return what was found for one series; the fidelity is that of its worst volume."""
    return Verified(
        name=name,
        modality=modality,
        slices=slices,
        findings=tuple(findings),
        missed=tuple(sorted({text for one in found for text in missed(one.checks)})),
        fidelity=worst(found),
        checks=tightest(found),
        unmeasured=unmeasured(found),
    )


def folder_of(paths: Iterable[list[Path]], output: Path) -> str:
    """Return the first folder that files of a series lie in, below the output."""
    folders = sorted({str(p.parent.relative_to(output)) for same in paths for p in same})
    return folders[0] if folders else ""
