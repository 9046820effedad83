"""Options of what `verify` and `report` measure: limits, rows, regions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli.options import FOLDER, F, as_one
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.batch.compared import Scope
    from salm_dicom.fidelity import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """What the command line says of what is to be measured."""

    limits_file: Path | None
    regions: Path | None
    model: Path | None
    rows: str | None
    is_full: bool
    min_psnr: float | None
    min_ssim: float | None
    max_mean_shift: float | None
    intensity_range: tuple[float, float] | None

    @property
    def limits(self) -> Limits:
        """Limits of the file, or those shipped, with what other options say in their place."""
        from salm_dicom.fidelity import Limits

        limits = Limits() if self.limits_file is None else Limits.read(self.limits_file)
        for name, value, modality in (
            ("psnr", self.min_psnr, None),
            ("ssim", self.min_ssim, None),
            ("slice_shift", self.max_mean_shift, "CT"),
        ):
            if value is not None:
                limits = limits.with_value(name, value, modality)
        return limits

    @property
    def scope(self) -> Scope:
        """Rows and regions that are measured; PlanError where the rows are no list of numbers."""
        from salm_dicom.batch.compared import Scope
        from salm_dicom.fidelity import DEFAULT_ROWS, ROWS

        chosen = frozenset(ROWS) if self.is_full else DEFAULT_ROWS
        if self.rows is not None:
            words = [word.strip() for word in self.rows.split(",")]
            if not all(word.isascii() and word.isdigit() and int(word) in ROWS for word in words):
                raise PlanError(f"rows are numbers from 1 to {max(ROWS)} with commas, e.g. 3,4,7")
            chosen = frozenset(map(int, words))
        return Scope(rows=chosen, is_full=self.is_full, regions=self.regions, model=self.model)


def measuring_options(function: F) -> F:
    """Add the limits of fidelity, rows, regions and the range of PSNR, as one `Measuring`."""
    function = as_one("measuring", Measuring)(function)
    for option in reversed(
        [
            click.option(
                "--limits",
                "limits_file",
                type=FOLDER,
                default=None,
                metavar="FILE",
                help="TOML file of limits that replace the shipped ones; see the reference.",
            ),
            click.option(
                "--regions",
                type=FOLDER,
                default=None,
                metavar="PATH",
                help="SEG, RTSTRUCT or NIfTI masks, a file or a folder: each is measured.",
            ),
            click.option(
                "--model",
                type=FOLDER,
                default=None,
                metavar="PATH",
                help="TorchScript file or MONAI bundle that segments, for row 10. It runs its own "
                "code: name only what you trust.",
            ),
            click.option(
                "--rows",
                default=None,
                metavar="LIST",
                help="What is measured, e.g. 3,4,7. Default: 1-4 and 6-9.",
            ),
            click.option(
                "--full",
                "is_full",
                is_flag=True,
                help="Measure every row, and every slice of it; takes long.",
            ),
            click.option(
                "--min-psnr", type=float, default=None, help="Of any slice, dB.  [default: 35]"
            ),
            click.option(
                "--min-ssim", type=float, default=None, help="Of any slice.  [default: 0.9]"
            ),
            click.option(
                "--max-mean-shift",
                type=float,
                default=None,
                help="Of the foreground mean of any CT slice, HU.  [default: 1]",
            ),
            click.option(
                "--intensity-range",
                type=(float, float),
                default=None,
                metavar="LO HI",
                help="Range of PSNR and SSIM. Default: -160 240 HU for CT, percentiles otherwise.",
            ),
        ]
    ):
        function = option(function)
    return function
