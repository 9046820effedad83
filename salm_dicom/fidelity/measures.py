"""MEASURES: every number that can have a limit, its row, its unit and how it is written."""

from __future__ import annotations

from dataclasses import dataclass

ROWS = {
    1: "attributes",
    2: "voxels that may not change",
    3: "shift of means",
    4: "noise",
    5: "noise power spectrum",
    6: "contrast to noise",
    7: "PSNR and SSIM",
    8: "visual information fidelity",
    9: "just noticeable differences",
    10: "segmentation by a clinical model",
    11: "radiomics",
    12: "model observer",
}
# Measured when asked for: they need a model, a library or minutes.
ON_REQUEST = (5, 10, 11, 12)
DEFAULT_ROWS = frozenset(ROWS) - frozenset(ON_REQUEST)
SHIFT = "HU or %"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a number means.

    Parameters
    ----------
    row
        A key of `ROWS`.
    short, title
        As a sentence and as a table name it.
    unit
        Its unit; `SHIFT` is HU for CT and percent otherwise.
    form
        How its value is formatted.
    is_floor
        Whether more is better: its limit is then the least.
    """

    row: int
    short: str
    title: str
    unit: str
    form: str = ".3g"
    is_floor: bool = False

    def units(self) -> tuple[str, ...]:
        """Return the units that its limit may have."""
        return ("HU", "%") if self.unit == SHIFT else (self.unit,)


def _floor(row: int, short: str, title: str, unit: str = "", form: str = ".4f") -> Measure:
    return Measure(row=row, short=short, title=title, unit=unit, form=form, is_floor=True)


def _most(row: int, short: str, title: str, unit: str) -> Measure:
    return Measure(row=row, short=short, title=title, unit=unit)


_BEYOND = "above that of accepted JPEG 2000"
MEASURES = {
    "clipped": Measure(
        row=2,
        short="clipped voxels",
        title="voxels that came to lie at an end of the range",
        unit="voxels",
        form=".0f",
    ),
    "region_shift": _most(
        3, "shift of an outlined region's mean", "shift of the mean, outlined region", SHIFT
    ),
    "small_window_shift": _most(
        3, "shift of a small window's mean", "shift of the mean, small sliding window", SHIFT
    ),
    "window_shift": _most(
        3, "shift of a window's mean", "shift of the mean, sliding window", SHIFT
    ),
    "tissue_shift": _most(3, "shift of a tissue's mean", "shift of a tissue's mean", SHIFT),
    "slice_shift": _most(3, "mean shift", "shift of a slice's foreground mean", SHIFT),
    "noise_sd": _most(4, "change of noise SD", "change of SD in homogeneous squares", "%"),
    "nps_integral": _most(
        5, "change of the noise power", "change of the noise power spectrum's integral", "%"
    ),
    "nps_frequency": _most(
        5, "change of the noise's mean frequency", "change of the spectrum's mean frequency", "%"
    ),
    "contrast": _most(6, "change of contrast", "change of contrast, in SD of the noise", "%"),
    "psnr": _floor(7, "PSNR", "PSNR, lowest of the slices", "dB", ".1f"),
    "ssim": _floor(7, "SSIM", "SSIM, lowest of the slices"),
    "window_psnr": _floor(7, "PSNR", "PSNR in a clinical window", "dB", ".1f"),
    "window_ssim": _floor(7, "SSIM", "SSIM in a clinical window"),
    "least_ssim": _floor(7, "lowest local SSIM", "lowest local SSIM in a clinical window"),
    "psnr_margin": _floor(7, "PSNR beyond JPEG 2000", f"PSNR {_BEYOND}", "dB", ".1f"),
    "ssim_margin": _floor(7, "SSIM beyond JPEG 2000", f"SSIM {_BEYOND}"),
    "least_ssim_margin": _floor(
        7, "lowest local SSIM beyond JPEG 2000", f"lowest local SSIM {_BEYOND}"
    ),
    "vif": _floor(8, "VIF", "VIF in a clinical window"),
    "vif_margin": _floor(8, "VIF beyond JPEG 2000", f"VIF {_BEYOND}"),
    "jnd": _most(9, "change", "99.9th percentile of the change", "JND"),
    "change_to_noise": _most(
        9, "change beside the noise", "99.9th percentile of the change beside the noise", "SD"
    ),
    "dice": _floor(10, "Dice of a model's segmentation", "Dice of a model's segmentation"),
    "segment_volume": _most(
        10, "change of a model's volume", "change of volume in a model's segmentation", "%"
    ),
    "features": _floor(
        11, "first-order features within 10 %", "first-order features within 10 %", "%", ".3g"
    ),
    "texture_features": _floor(
        11, "texture features within 10 %", "texture features within 10 %", "%", ".3g"
    ),
    "observer_auc": _most(
        12, "change of a model observer's AUC", "change of a model observer's AUC", ""
    ),
}
