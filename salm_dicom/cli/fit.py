"""`salm-dicom fit`: train a protector on a labelled export."""

from __future__ import annotations

import os
from pathlib import Path

import click

from salm_dicom.cli import console
from salm_dicom.cli.engine_options import device_option, jobs_option
from salm_dicom.cli.options import (
    FOLDER,
    labels_options,
    log_option,
    masks_option,
    modality_option,
    progress_option,
    quantitative_option,
    sandbox_option,
    source_argument,
)
from salm_dicom.cli.plan_options import note_on, plan_options

EXAMPLES = """\b
Examples:
  salm-dicom fit export/ --labels labels.csv -o protector/
  salm-dicom fit export/ --label-free -o protector/
  salm-dicom fit export/ --objective segmentation --masks masks/ -o protector/
"""
# Those that have learned the perturbation which they were shown err less.
_NOT_LEARNED = 0.25


@click.command("fit", epilog=EXAMPLES)
@source_argument
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the protector.")
@labels_options
@masks_option
@modality_option
@quantitative_option
@plan_options
@jobs_option
@device_option
@progress_option
@sandbox_option
@log_option
@console.reports_errors
def command(
    source: Path,
    output: Path,
    labels: Path | None,
    labels_by: str,
    masks: Path | None,
    modality: str | None,
    allow_quantitative: bool,
    jobs: int | None,
    device: str,
    progress: str,
    sandbox: bool,
    log_file: Path | None,
    **settings: object,
) -> int:
    """Train a protector on the labelled series of the export SOURCE.

    The protector is secret: whoever holds it can remove the protection. Use it with
    `salm-dicom protect --protector`. A fit that was stopped or killed goes on where it was when the
    same command is given again. The number of processes does not change the protector.

    With `torchrun ... --no-python salm-dicom fit ...` the processes that torchrun starts, on one
    machine or several, share the work.
    """
    from salm_dicom.batch import ranks
    from salm_dicom.batch.engines import warm_up

    by_torchrun = ranks.is_one_of_many()
    if by_torchrun:
        ranks.use_own_gpu()
        if not ranks.is_first():
            ranks.serve()
            return console.DONE
        if jobs is not None:
            raise click.UsageError("torchrun says how many processes there are: leave out --jobs")
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs > 1 and not by_torchrun:  # while this process imports the same
        warm_up(with_torch=True)
    from salm_dicom.batch.candidates import Asked, label, leave_out_unfit, studies
    from salm_dicom.batch.catalog import Catalog
    from salm_dicom.batch.labels import Labels
    from salm_dicom.batch.places import check_places, check_protector
    from salm_dicom.batch.pool import pool
    from salm_dicom.batch.source import fill
    from salm_dicom.dicom.sandbox import sandboxed
    from salm_dicom.errors import PlanError
    from salm_dicom.plan import ProtectionPlan
    from salm_dicom.preprocessing import check_transforms
    from salm_dicom.protector import save
    from salm_dicom.protector.device import device_of
    from salm_dicom.protector.fit import fit

    plan = ProtectionPlan.from_dict(settings)
    if not plan.needs_surrogate:
        raise PlanError(f"method {plan.method} needs no fit; use it with `salm-dicom protect`")
    check_transforms(plan.preprocessing)
    table = None if labels is None else Labels.read(labels, by=labels_by, root=source)
    place = device_of(device)
    asked = Asked(source=source, labels=table, masks=masks)
    check_places(source, output, output.with_name(output.name + ".none"))
    check_protector(output)
    with Catalog.new() as catalog:
        fill(catalog, source, modality, allow_quantitative=allow_quantitative)
        if not catalog.count():
            return console.NOTHING
        label(catalog, plan, asked)
        output.mkdir(parents=True, exist_ok=True, mode=0o700)
        with sandboxed(sandbox), console.progress_to_stderr(progress) as show:
            found, numbers = studies(catalog, plan)
            unfit: list[tuple[int, str, str]] = []
            with ranks.leading() if by_torchrun else pool("local", jobs) as workers:
                protector = fit(
                    found,
                    plan,
                    output,
                    show,
                    failed=lambda *one: unfit.append(one),
                    device=place,
                    each=workers.each,
                    keep=lambda one: save(one, output),
                )
        for index, (code, reason) in {index: why for index, *why in unfit}.items():
            leave_out_unfit(catalog, numbers[index], code, reason)
        fitted = catalog.count(where="is_in AND is_labelled")
        left_out = list(catalog.left_out())
    what = "masks of" if plan.needs_masks else "labels"
    click.echo(f"fitted on {fitted} series with {what} {', '.join(protector.classes)}")
    for name, value in sorted(protector.report.items()):
        click.echo(f"  {name.replace('_', ' ')}: {value:.3g}")
    for extent in protector.surrogates if plan.is_fresh else ():
        error = protector.report[f"{extent}_error_on_protected"]
        if error > _NOT_LEARNED:
            click.echo(
                f"warning: fresh surrogates of {extent} extent have not learned the perturbation "
                f"(error {error:.2g}), so it hardly protects; use more --rounds, a larger "
                "--epsilon, more images, or --surrogates one"
            )
    if note := note_on(plan):
        click.echo(note)
    click.echo(f"protector: {output} (secret)")
    console.list_left_out(((e.path, e.code, e.reason) for e in left_out), source)
    return console.worst(console.exit_of_left_out(entry.code for entry in left_out))
