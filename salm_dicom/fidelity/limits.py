"""Limits a protected volume must keep, and which of them it missed."""

from __future__ import annotations

from dataclasses import dataclass

from salm_dicom.fidelity.metrics import Fidelity


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of fidelity; none of them makes an image clinically safe.

    Parameters
    ----------
    psnr_db, ssim
        Lowest allowed value of any slice, within the intensity range.
    mean_shift_hu
        Largest allowed shift of a slice's foreground mean, CT.
    mean_shift_share
        The same for other modalities, as a share of the intensity range.
    """

    psnr_db: float = 35.0
    ssim: float = 0.90
    mean_shift_hu: float = 1.0
    mean_shift_share: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured number, the limit that it must keep, and whether it does.

    `sign` stands between the two where the limit is missed; `text` says so in a sentence.
    """

    name: str
    value: float
    sign: str
    limit: float
    is_missed: bool
    text: str


def checks(found: Fidelity, limits: Limits, modality: str) -> list[Check]:
    """Return every number that has a limit, with the limit for this modality."""
    width = found.intensity_range[1] - found.intensity_range[0]
    shift = limits.mean_shift_hu if modality == "CT" else limits.mean_shift_share * width
    psnr, ssim, mean_shift = found.psnr_db, found.ssim, found.mean_shift
    return [
        Check(
            name="PSNR", value=psnr, sign="<", limit=limits.psnr_db,
            is_missed=psnr < limits.psnr_db,
            text=f"PSNR {psnr:.1f} dB < {limits.psnr_db:g} dB",
        ),
        Check(
            name="SSIM", value=ssim, sign="<", limit=limits.ssim, is_missed=ssim < limits.ssim,
            text=f"SSIM {ssim:.3f} < {limits.ssim:g}",
        ),
        Check(
            name="mean shift", value=mean_shift, sign=">", limit=shift,
            is_missed=mean_shift > shift,
            text=f"mean shift {mean_shift:.3g} > {shift:.3g}",
        ),
    ]  # fmt: skip


def missed(found: Fidelity, limits: Limits, modality: str) -> list[str]:
    """Return a sentence for each limit that is missed; an empty list is a pass."""
    return [one.text for one in checks(found, limits, modality) if one.is_missed]
