"""Verified: what was found for one series; Verification: for a whole output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from salm_dicom.batch.verify_objects import VerifiedObjects
from salm_dicom.dicom.conformance import Finding
from salm_dicom.fidelity import Check, Fidelity

# Findings about voxels that may not change, of DICOM and of NIfTI files: row 2. All others are of
# attributes, and of what else the files say: row 1.
_OF_VOXELS = {
    "BACKGROUND_CHANGED", "PADDING_CHANGED", "BUDGET_EXCEEDED", "PIXEL_FORMAT", "COLOUR_CHANGED",
    "WRAPPED", "BACKGROUND", "RANGE", "BUDGET", "SHAPE",
}  # fmt: skip


def row_of(finding: Finding) -> int:
    """Return the row of fidelity that a finding belongs to."""
    return 2 if finding.code in _OF_VOXELS else 1


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

    @property
    def verdicts(self) -> dict[int, str]:
        """Return what became of each row that was asked for."""
        wrong = {row_of(finding) for finding in self.findings}
        found = {row: "wrong" if row in wrong else "met" for row in (1, 2)}
        found |= {row: "not measured" for row, _ in self.unmeasured}
        for check in self.checks:
            others = found.get(check.row, "")
            if others == "wrong":
                continue
            if check.is_missed or others == "missed":
                found[check.row] = "missed"
            elif not check.is_wanted or others == "not as wanted":
                found[check.row] = "not as wanted"
            else:
                found[check.row] = "met"
        return dict(sorted(found.items()))


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
