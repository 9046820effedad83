"""Pairs of volumes with the fidelity that is measured on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from salm_dicom.batch.outlined import Outlines
from salm_dicom.batch.pair import Pair
from salm_dicom.batch.verified import row_of
from salm_dicom.crew import ALONE, Crew
from salm_dicom.dicom.conformance import Finding
from salm_dicom.fidelity import (
    DEFAULT_ROWS,
    Check,
    Fidelity,
    Limits,
    Profile,
    Subject,
    checks,
    measure,
)
from salm_dicom.fidelity.subject import Segmenter
from salm_dicom.grid import spacing_mm
from salm_dicom.intensity import intensity_range
from salm_dicom.plan import ProtectionPlan

_SEGMENTATION = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A pair with its fidelity and the limits of it; None where there is no foreground."""

    pair: Pair
    fidelity: Fidelity | None
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What somebody wants to be measured.

    Parameters
    ----------
    rows
        Of `fidelity.ROWS`.
    is_full
        Whether every slice is looked at closely, whatever it takes.
    regions
        A file or folder with SEG, RTSTRUCT or NIfTI masks: regions to measure.
    model
        What row 10 segments with, see `fidelity.models.load_segmenter`.
    """

    rows: frozenset[int] = DEFAULT_ROWS
    is_full: bool = False
    regions: Path | None = None
    model: Path | None = None

    def measuring(self, limits: Limits, window: tuple[float, float] | None) -> Measuring:
        """Return what measures it, by limits and with PSNR and SSIM in a window.

        Raises
        ------
        PlanError
            The regions or the model cannot be read.
        """
        return Measuring(
            plan=ProtectionPlan(method="random", intensity_range=window),
            limits=limits,
            outlines=Outlines.read(self.regions),
            rows=self.rows,
            is_full=self.is_full,
            model=self._segmenter(),
        )

    def _segmenter(self) -> Segmenter | None:
        if self.model is None or _SEGMENTATION not in self.rows:
            return None
        from salm_dicom.fidelity.models import load_segmenter  # torch and MONAI, for it only

        return load_segmenter(self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What is measured of each pair, and by which limits.

    Parameters
    ----------
    plan
        Its intensity range is the one that PSNR and SSIM are stated for.
    rows
        Of `fidelity.ROWS`.
    is_full
        Whether every slice is looked at closely.
    model
        What row 10 segments with.
    """

    plan: ProtectionPlan
    limits: Limits
    outlines: Outlines
    rows: frozenset[int] = DEFAULT_ROWS
    is_full: bool = False
    model: Segmenter | None = None

    def compared(
        self,
        pairs: Sequence[Pair],
        body_part: str,
        findings: Iterable[Finding],
        crew: Crew = ALONE,
    ) -> tuple[Compared, ...]:
        """Return each pair with its fidelity and the limits for such images.

        Voxels that may not change, and those that wrapped, are left out of every number where the
        findings name some: row 2 has failed already, and one row points at one cause.
        """
        spoilt = any(row_of(finding) == 2 for finding in findings)
        return tuple(
            replace(self._compared(_mended(pair) if spoilt else pair, body_part, crew), pair=pair)
            for pair in pairs
        )

    def _compared(self, pair: Pair, body_part: str, crew: Crew) -> Compared:
        if not pair.mask.any():
            return Compared(pair=pair, fidelity=None)
        profile = self.limits.profile(pair.source.modality, body_part)
        fidelity = measure(self._subject(pair, profile, crew), self.rows)
        found = checks(fidelity.readings, profile)
        return Compared(pair=pair, fidelity=fidelity, checks=tuple(found))

    def _subject(self, pair: Pair, profile: Profile, crew: Crew) -> Subject:
        """Return what is measured: protected values have the mapping of their source."""
        return Subject(
            pixels=pair.source.pixels,
            after=pair.after,
            mask=pair.mask,
            spacing_mm=spacing_mm(pair.source.affine),
            modality=pair.source.modality,
            intensity_range=intensity_range(self.plan, pair.source, pair.mask.__getitem__),
            regions=(*pair.regions, *self.outlines.on_grid(pair.source)),
            windows=profile.windows,
            ratio=profile.ratio,
            is_full=self.is_full,
            affine=pair.source.affine,
            model=self.model,
            ends=pair.extremes,
            crew=crew,
        )


def worst(found: Sequence[Compared]) -> Fidelity | None:
    """Return the fidelity with the lowest PSNR."""
    measured = [one.fidelity for one in found if one.fidelity is not None]
    return min(measured, key=lambda one: one.psnr_db, default=None)


def tightest(found: Sequence[Compared]) -> tuple[Check, ...]:
    """Return of each number the check that is furthest beyond its limit, or nearest to it."""
    groups: dict[tuple[str, str], list[Check]] = {}
    for check in (check for one in found for check in one.checks):
        groups.setdefault((check.name, check.where), []).append(check)
    return tuple(max(group, key=lambda one: one.beyond) for group in groups.values())


def unmeasured(found: Sequence[Compared]) -> tuple[tuple[int, str], ...]:
    """Return the rows of which nothing could be said in any volume, each with a reason."""
    measured = {check.row for one in found for check in one.checks}
    reasons = dict(pair for one in found if one.fidelity for pair in one.fidelity.unmeasured)
    return tuple((row, reasons[row]) for row in sorted(reasons) if row not in measured)


def _mended(pair: Pair) -> Pair:
    """Return a pair whose source stands in for protected voxels that may not be what they are."""
    before = pair.source.pixels.values
    half = 1 << max(pair.source.pixels.bits_stored - 1, 1)
    allowed = pair.mask & (np.abs(pair.after.astype(np.int64) - before) < half)
    return replace(pair, after=np.where(allowed, pair.after, before))
