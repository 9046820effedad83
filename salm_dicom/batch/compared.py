"""Pairs of volumes with the fidelity that is measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from salm_dicom.batch.pair import Pair
from salm_dicom.fidelity import Fidelity, measure
from salm_dicom.plan import ProtectionPlan, intensity_range
from salm_dicom.volume import Integers, StoredPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A pair with its fidelity; None where the volume has no foreground to measure on."""

    pair: Pair
    fidelity: Fidelity | None


def compared(pairs: Sequence[Pair], plan: ProtectionPlan) -> tuple[Compared, ...]:
    """Return each pair with its fidelity, in the plan's intensity range."""
    return tuple(Compared(pair=pair, fidelity=_fidelity(pair, plan)) for pair in pairs)


def worst(found: Sequence[Compared]) -> Fidelity | None:
    """Return the fidelity with the lowest PSNR."""
    measured = [one.fidelity for one in found if one.fidelity is not None]
    return min(measured, key=lambda one: one.psnr_db, default=None)


def _fidelity(pair: Pair, plan: ProtectionPlan) -> Fidelity | None:
    if not pair.mask.any():
        return None
    pixels = pair.source.pixels
    window = intensity_range(plan, pair.source, pair.mask.__getitem__)
    return measure(
        pixels.modality_values(), _with(pixels, pair.after).modality_values(), pair.mask, window
    )


def _with(pixels: StoredPixels, values: Integers) -> StoredPixels:
    """Return protected values with the mapping of their source; both headers say the same."""
    return replace(pixels, values=values)
