"""Verified: what was found for one series; Verification: for a whole output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from salm_dicom.batch.verify_objects import VerifiedObjects
from salm_dicom.dicom.conformance import Finding
from salm_dicom.fidelity import Check, Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found for one source series.

    Parameters
    ----------
    checks
        Every number that has a limit, of the volume where it is worst.
    unmeasured
        Rows of which nothing could be said in any volume, each with a reason.
    """

    name: str
    modality: str
    slices: int
    findings: tuple[Finding, ...]
    missed: tuple[str, ...]
    fidelity: Fidelity | None
    checks: tuple[Check, ...] = ()
    unmeasured: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found for a whole output.

    Parameters
    ----------
    series
        One for each series of the source that is in the output.
    absent
        Series of the source that have no protected instance.
    strange
        Files of the output that could not be paired, with the reason.
    objects
        What was found for objects that are copied, not protected.
    unused_regions
        Files with outlines that mark no series of the source in the output.
    """

    series: tuple[Verified, ...]
    absent: int
    strange: tuple[tuple[Path, str], ...] = field(default=())
    objects: VerifiedObjects = field(default_factory=VerifiedObjects)
    unused_regions: int = 0
