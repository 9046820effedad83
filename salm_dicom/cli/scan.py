"""`salm-dicom scan`: what is in an export, and every file that would be left out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import (
    json_option,
    log_option,
    modality_option,
    quantitative_option,
    selection_options,
    source_argument,
)

if TYPE_CHECKING:
    from salm_dicom.batch.selection import Selection
    from salm_dicom.batch.source import AnySeries, Export


@click.command("scan", epilog="Example:  salm-dicom scan export/")
@source_argument
@modality_option
@selection_options
@quantitative_option
@json_option
@log_option
@console.reports_errors
def command(
    source: Path,
    modality: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    allow_quantitative: bool,
    as_json: bool,
    log_file: Path | None,
) -> int:
    """Show what is in the export SOURCE, and what would be left out and why.

    Nothing is written. Exit 3 when files would be left out, 4 when nothing can be protected.
    """
    return show(
        source,
        modality,
        include,
        exclude,
        allow_quantitative=allow_quantitative,
        as_json=as_json,
        log_file=log_file,
    )


def selection_of(source: Path, include: tuple[str, ...], exclude: tuple[str, ...]) -> Selection:
    """Return what --include and --exclude ask for."""
    from salm_dicom.batch.selection import Criterion, Selection

    return Selection(
        include=tuple(map(Criterion.parse, include)),
        exclude=tuple(map(Criterion.parse, exclude)),
        root=source,
    )


def show(
    source: Path,
    modality: str | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    *,
    allow_quantitative: bool = False,
    as_json: bool,
    log_file: Path | None = None,
) -> int:
    """Print what a scan finds and return the exit code."""
    from salm_dicom.batch.selection import chosen
    from salm_dicom.batch.source import find
    from salm_dicom.errors import PlanError

    if not source.exists():
        raise PlanError("SOURCE does not exist; give the folder of an export")
    selection = selection_of(source, include, exclude)
    found = chosen(find(source, modality, allow_quantitative=allow_quantitative), selection)
    if log_file is not None:
        console.append_log(log_file, (one.frames for one in found.left_out if one.frames))
    if as_json:
        for series in found.series:
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
        for one in found.objects:
            console.emit("object", path=str(one.path), kind=one.kind)
        for path in found.indexes:
            console.emit("dicomdir", path=str(path))
        for entry in found.left_out:
            console.emit("left_out", path=str(entry.path), code=entry.code, reason=entry.reason)
        codes = [entry.code for entry in found.left_out]
        console.emit(
            "summary",
            series=len(found.series),
            objects=console.counted(one.kind for one in found.objects),
            left_out=console.counted(codes),
        )
    else:
        _print(found, source)
    if not found.series:
        return console.NOTHING
    return console.worst(console.exit_of_left_out(entry.code for entry in found.left_out))


def _geometry(series: AnySeries) -> str:
    return "multi-frame" if series.is_multi_frame else series.irregular or "regular"


def _print(found: Export, source: Path) -> None:
    rows = [
        (str(number), one.modality, str(one.images), f"{one.rows} x {one.columns}", _geometry(one))
        for number, one in enumerate(found.series, start=1)
    ]
    images = sum(series.images for series in found.series)
    click.echo(f"{len(found.series)} series with {images} images can be protected")
    if rows:
        console.table(rows, ("no.", "modality", "slices", "rows x columns", "geometry"))
    for why in sorted({one.quantity for one in found.series if one.quantity}):
        click.echo(f"  warning W_QUANTITATIVE: {why}")
    if found.objects:
        kinds = console.kinds(one.kind for one in found.objects)
        click.echo(f"{len(found.objects)} objects would be copied, references mapped: {kinds}")
    if found.indexes:
        click.echo("DICOMDIR: not copied, one is made for the output")
    console.list_left_out(((e.path, e.code, e.reason) for e in found.left_out), source)
