"""Options of what `verify` and `report` measure: limits, rows, regions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli.options import FOLDER, F
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.batch.compared import Scope
    from salm_dicom.fidelity import Limits


def limits_options(function: F) -> F:
    """Add the limits of fidelity, and the range that PSNR and SSIM are stated for."""
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


def limits_of(
    path: Path | None, min_psnr: float | None, min_ssim: float | None, max_mean_shift: float | None
) -> Limits:
    """Return the limits of a file, or those shipped, with what other options say in their place."""
    from salm_dicom.fidelity import Limits

    limits = Limits() if path is None else Limits.read(path)
    for name, value, modality in (
        ("psnr", min_psnr, None),
        ("ssim", min_ssim, None),
        ("slice_shift", max_mean_shift, "CT"),
    ):
        if value is not None:
            limits = limits.with_value(name, value, modality)
    return limits


def scope_of(rows: str | None, is_full: bool, regions: Path | None, model: Path | None) -> Scope:
    """Return what is to be measured.

    Raises
    ------
    PlanError
        The rows are no list of numbers.
    """
    from salm_dicom.batch.compared import Scope
    from salm_dicom.fidelity import DEFAULT_ROWS, ROWS

    chosen = frozenset(ROWS) if is_full else DEFAULT_ROWS
    if rows is not None:
        words = [word.strip() for word in rows.split(",")]
        if not all(word.isascii() and word.isdigit() and int(word) in ROWS for word in words):
            raise PlanError(f"rows are numbers from 1 to {max(ROWS)} with commas, e.g. 3,4,7")
        chosen = frozenset(map(int, words))
    return Scope(rows=chosen, is_full=is_full, regions=regions, model=model)
