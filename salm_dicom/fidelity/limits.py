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


def missed(found: Fidelity, limits: Limits, modality: str) -> list[str]:
    """Return a sentence for each limit that is missed; an empty list is a pass."""
    width = found.intensity_range[1] - found.intensity_range[0]
    shift = limits.mean_shift_hu if modality == "CT" else limits.mean_shift_share * width
    rows = [
        (found.psnr_db < limits.psnr_db, f"PSNR {found.psnr_db:.1f} dB < {limits.psnr_db:g} dB"),
        (found.ssim < limits.ssim, f"SSIM {found.ssim:.3f} < {limits.ssim:g}"),
        (found.mean_shift > shift, f"mean shift {found.mean_shift:.3g} > {shift:.3g}"),
    ]
    return [text for is_missed, text in rows if is_missed]
