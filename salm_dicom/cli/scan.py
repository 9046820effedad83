"""`salm-dicom scan`: what is in an export, and every file that would be left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import json_option, log_option, source_argument
from salm_dicom.cli.wanted import Wanted, wanted_options

if TYPE_CHECKING:
    from salm_dicom.batch.catalog import AnySeries, Catalog


@click.command("scan", epilog="Example:  salm-dicom scan export/")
@source_argument
@wanted_options
@json_option
@log_option
@console.reports_errors
def command(source: Path, wanted: Wanted, as_json: bool, log_file: Path | None) -> int:
    """Show what is in the export SOURCE, and what would be left out and why.

    Nothing is written. Exit 3 when files would be left out, 4 when nothing can be protected.
    """
    return show(source, wanted, as_json=as_json, log_file=log_file)


def show(source: Path, wanted: Wanted, *, as_json: bool, log_file: Path | None = None) -> int:
    """Print what a scan finds and return the exit code."""
    from salm_dicom.batch.catalog import Catalog
    from salm_dicom.batch.selection import choose
    from salm_dicom.batch.source import fill
    from salm_dicom.errors import PlanError

    if not source.exists():
        raise PlanError("SOURCE does not exist; give the folder of an export")
    selection = wanted.selection(source)
    with Catalog.new() as catalog:
        fill(catalog, source, wanted.modality, allow_quantitative=wanted.allow_quantitative)
        choose(catalog, selection)
        if log_file is not None:
            console.append_log(log_file, catalog.frames())
        if as_json:
            _emit(catalog)
        else:
            _print(catalog, source)
        if not catalog.count():
            return console.NOTHING
        return console.worst(console.exit_of_left_out(one.code for one in catalog.left_out()))


def _emit(catalog: Catalog) -> None:
    for entry in catalog.series():
        series = entry.series
        console.emit(
            "series",
            series_uid=series.series_uid,
            modality=series.modality,
            frames=series.frames,
            slices=series.slices,
            rows=series.rows,
            columns=series.columns,
            geometry=_geometry(series),
            **({"quantitative": series.quantity} if series.quantity else {}),
            extent="slice" if series.irregular or series.slices == 1 else "volume",
            files=[str(path) for path in series.paths],
        )
    for one in catalog.objects():
        console.emit("object", path=str(one.path), kind=one.kind)
    for path in catalog.indexes():
        console.emit("dicomdir", path=str(path))
    for left in catalog.left_out():
        console.emit("left_out", path=str(left.path), code=left.code, reason=left.reason)
    console.emit(
        "summary",
        series=catalog.count(),
        objects=console.counted(one.kind for one in catalog.objects()),
        left_out=console.counted(left.code for left in catalog.left_out()),
    )


def _geometry(series: AnySeries) -> str:
    return "multi-frame" if series.is_multi_frame else series.irregular or "regular"


def _print(catalog: Catalog, source: Path) -> None:
    series = (entry.series for entry in catalog.series())
    rows = (
        (str(number), one.modality, str(one.images), f"{one.rows} x {one.columns}", _geometry(one))
        for number, one in enumerate(series, start=1)
    )
    images = sum(images for _, images in catalog.pages("images"))
    click.echo(f"{catalog.count()} series with {images} images can be protected")
    console.table(rows, ("no.", "modality", "slices", "rows x columns", "geometry"))
    for why in sorted({e.series.quantity for e in catalog.series() if e.series.quantity}):
        click.echo(f"  warning W_QUANTITATIVE: {why}")
    if catalog.count("objects"):
        kinds = console.kinds(one.kind for one in catalog.objects())
        count = catalog.count("objects")
        click.echo(f"{count} objects would be copied, references mapped: {kinds}")
    if catalog.indexes():
        click.echo("DICOMDIR: not copied, one is made for the output")
    console.list_left_out(((e.path, e.code, e.reason) for e in catalog.left_out()), source)
