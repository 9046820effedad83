"""`salm-dicom protect`: protect every series of an export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli import console
from salm_dicom.cli.engine_options import bytes_of, device_option, engine_options
from salm_dicom.cli.options import (
    FOLDER,
    created_option,
    creation_time,
    json_option,
    labels_options,
    log_option,
    masks_option,
    progress_option,
    recipients_of,
    sandbox_option,
    site_key,
    source_argument,
)
from salm_dicom.cli.plan_options import note_on, plan_options
from salm_dicom.cli.scan import show
from salm_dicom.cli.wanted import Wanted, wanted_options

if TYPE_CHECKING:
    from salm_dicom.batch.manifest import Done, Result

EXAMPLES = """\b
Examples:
  salm-dicom protect export/ -o shared/ --labels labels.csv
  salm-dicom protect export/ -o shared/ --protector protector/ --labels labels.csv
  salm-dicom protect export/ -o shared/ --objective segmentation --masks masks/
  salm-dicom protect export/ -o shared/ --label-free --clusters 8
  salm-dicom protect export/ -o try/ --method random
"""


@click.command("protect", epilog=EXAMPLES)
@source_argument
@click.option("-o", "--output", type=FOLDER, required=True, help="OUT: holds only what is shared.")
@click.option("--vault", type=FOLDER, help="What stays private. Default: OUT.vault")
@click.option("--protector", type=FOLDER, help="From `salm-dicom fit`; brings its own settings.")
@labels_options
@masks_option
@wanted_options
@plan_options
@engine_options
@created_option
@click.option("--site-key", "key_file", type=FOLDER, help="File with the key of the new UIDs.")
@click.option(
    "--embed-recovery",
    "certificate",
    type=FOLDER,
    metavar="CERT.pem",
    help="Put the way back into every DICOM file, encrypted for the owner of this certificate.",
)
@click.option(
    "--deidentify",
    is_flag=True,
    help="De-identify every file first, by rule (PS3.15 Basic Profile); text in pixels stays. "
    "Needs salm_dicom[deid].",
)
@device_option
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@json_option
@progress_option
@sandbox_option
@log_option
@console.reports_errors
def command(
    source: Path,
    output: Path,
    vault: Path | None,
    protector: Path | None,
    labels: Path | None,
    labels_by: str,
    masks: Path | None,
    wanted: Wanted,
    jobs: int | None,
    engine: str,
    max_memory: str | None,
    max_seconds_per_file: float | None,
    created: str | None,
    key_file: Path | None,
    certificate: Path | None,
    deidentify: bool,
    device: str,
    dry_run: bool,
    as_json: bool,
    progress: str,
    sandbox: bool,
    log_file: Path | None,
    **settings: object,
) -> int:
    """Protect every series of the export SOURCE and write derived copies to OUT.

    SOURCE is only read. OUT gets DICOM and NIfTI files and manifest.json, no patient data in its
    names.
    The vault keeps the protector and what is needed to restore the originals: keep it private.
    A second run with the same options finishes what is missing.
    """
    from salm_dicom.batch.engines import warm_up
    from salm_dicom.perturb import WITHOUT_TORCH

    jobs = jobs or len(os.sched_getaffinity(0))
    has_workers = (jobs > 1 or engine != "local") and not dry_run
    with_torch = protector is not None or settings.get("method") not in WITHOUT_TORCH
    has_copies = engine == "local" and not with_torch  # of this process, once it imported all
    if has_workers and not has_copies:  # import while this process does
        warm_up(engine, with_torch=with_torch)
    from salm_dicom.batch.labels import Labels
    from salm_dicom.batch.places import check_places
    from salm_dicom.batch.protect import Request, protect
    from salm_dicom.dicom.derive import PUBLIC_SITE_KEY
    from salm_dicom.dicom.sandbox import sandboxed
    from salm_dicom.plan import ProtectionPlan
    from salm_dicom.preprocessing import check_transforms
    from salm_dicom.protector.device import device_of

    if has_workers and has_copies:
        warm_up(engine)
    vault = vault or output.with_name(output.name + ".vault")
    check_places(source, output, vault)
    if dry_run:
        console.say("dry run: nothing is written")
        return show(source, wanted, as_json=as_json, log_file=log_file)
    plan = ProtectionPlan.from_dict(settings)
    check_transforms(plan.preprocessing)
    request = Request(
        source=source,
        output=output,
        vault=vault,
        plan=plan,
        protector=protector,
        labels=None if labels is None else Labels.read(labels, by=labels_by, root=source),
        masks=masks,
        created=creation_time(created),
        site_key=site_key(key_file, PUBLIC_SITE_KEY),
        jobs=jobs,
        engine=engine,
        max_memory=bytes_of(max_memory),
        max_seconds_per_file=max_seconds_per_file or 0.0,
        modality=wanted.modality,
        selection=wanted.selection(source),
        recipients=() if certificate is None else recipients_of(certificate),
        allow_quantitative=wanted.allow_quantitative,
        deidentify=deidentify,
        device=device_of(device) if plan.needs_surrogate or protector else "cpu",
    )
    with sandboxed(sandbox), console.progress_to_stderr(progress) as report:
        result = protect(request, report)
    if log_file is not None:
        console.append_log(log_file, result.log)
    if as_json:
        _emit(result)
    else:
        print_result(result, source, output, vault)
        if result.done and protector is None and (note := note_on(plan)):
            click.echo(note)
    if not result.done and not result.left_out:
        return console.NOTHING
    codes = {entry.code for entry in result.left_out}
    if not result.done and not codes & {"E_UNEXPECTED", "E_MISMATCH"}:
        return console.NOTHING
    return console.worst(console.exit_of_left_out(codes))


def _emit(result: Result) -> None:
    for one in result.done:
        console.emit(
            "series",
            folder=one.name,
            instances=one.slices,
            modality=one.modality,
            extent=one.record.extent,
            budget_stored=one.record.budget_stored,
            largest_change_stored=one.record.largest_change_stored,
            changed_share=one.record.changed_share,
            warnings=list(one.record.warnings),
        )
    for copy in result.copied:
        console.emit("object", file=copy.name, kind=copy.kind)
    for entry in result.left_out:
        console.emit("left_out", path=str(entry.path), code=entry.code, reason=entry.reason)
    console.emit(
        "summary",
        series=len(result.done),
        instances=sum(one.slices for one in result.done),
        resumed=result.resumed,
        objects=console.counted(one.kind for one in result.copied),
        dicomdir=None if result.index is None else result.index.instances,
        left_out=console.counted(entry.code for entry in result.left_out),
    )


def print_result(result: Result, source: Path, output: Path, vault: Path) -> None:
    """Print what was protected, the budget in its three units, what was left out, where it is."""
    images = sum(one.slices for one in result.done)
    click.echo(f"Protected {len(result.done)} series with {images} images")
    if result.resumed:
        click.echo(f"  ({result.resumed} of them by an earlier run)")
    from salm_dicom.dicom.objects import DOCUMENT

    if result.done:
        head = ("series", "modality", "images", "method", "largest allowed change", "changed")
        console.table(map(_row, result.done), head)
        click.echo("  (changed: share of foreground voxels; the background is bit-identical)")
    if result.copied:
        kinds = console.kinds(one.kind for one in result.copied)
        click.echo(f"Copied {len(result.copied)} objects, references mapped: {kinds}")
        if any(one.kind == DOCUMENT for one in result.copied):
            click.echo("  warning W_DOCUMENT: pictures inside documents are not protected")
    if result.index is not None:
        click.echo(f"Made a DICOMDIR of {result.index.instances} instances")
        if result.index.lacking:
            click.echo(
                f"  warning W_DICOMDIR: {result.index.lacking} instances lack what a directory "
                "record must have (study date, time or ID, a number)"
            )
    for text in sorted({w for one in result.done for w in one.record.warnings}):
        click.echo(f"  warning {text}")
    console.list_left_out(((e.path, e.code, e.reason) for e in result.left_out), source)
    click.echo(f"\nTo share:        {output}")
    click.echo(f"To keep private: {vault}")


def _row(one: Done) -> tuple[str, ...]:
    r = one.record
    return (
        one.name, one.modality, str(one.slices), f"{r.method}/{r.extent}",
        f"{r.epsilon * 255:.3g}/255 = {r.budget_modality:.3g} {_short(r.units)} "
        f"= {r.budget_stored} stored",
        f"{r.changed_share:.1%}",
    )  # fmt: skip


def _short(units: str) -> str:
    return "HU" if units == "HU" else "units"
