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
        As a sentence and as a table name it; `{}` in the title is where it was measured.
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


MEASURES = {
    "region_shift": Measure(
        row=3, short="shift of an outlined region's mean", title="shift of the mean, {}", unit=SHIFT
    ),
    "window_shift": Measure(
        row=3,
        short="shift of a window's mean",
        title="shift of the mean, sliding {}",
        unit=SHIFT,
    ),
    "tissue_shift": Measure(
        row=3,
        short="shift of a tissue's mean",
        title="shift of a tissue's mean, largest of all",
        unit=SHIFT,
    ),
    "slice_shift": Measure(
        row=3,
        short="mean shift",
        title="shift of the foreground mean, largest of the slices",
        unit=SHIFT,
    ),
    "psnr": Measure(
        row=7,
        short="PSNR",
        title="PSNR within {}, lowest of the slices",
        unit="dB",
        form=".1f",
        is_floor=True,
    ),
    "ssim": Measure(
        row=7,
        short="SSIM",
        title="SSIM within {}, lowest of the slices",
        unit="",
        form=".4f",
        is_floor=True,
    ),
}
