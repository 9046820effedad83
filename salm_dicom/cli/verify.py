"""`salm-dicom verify`: measure a protected export against its source."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli import console
from salm_dicom.cli.engine_options import jobs_option
from salm_dicom.cli.measuring import Measuring, measuring_options
from salm_dicom.cli.options import (
    FOLDER,
    json_option,
    log_option,
    printable,
    progress_option,
    sandbox_option,
    source_argument,
    vault_option,
)

if TYPE_CHECKING:
    from salm_dicom.batch.verified import Verification
    from salm_dicom.fidelity import Check


@click.command("verify", epilog="Example:  salm-dicom verify export/ shared/")
@source_argument
@click.argument("output", metavar="OUT", type=FOLDER)
@vault_option
@measuring_options
@jobs_option
@json_option
@progress_option
@sandbox_option
@log_option
@console.reports_errors
def command(
    source: Path,
    output: Path,
    vault: Path | None,
    measuring: Measuring,
    jobs: int | None,
    as_json: bool,
    progress: str,
    sandbox: bool,
    log_file: Path | None,
) -> int:
    """Measure the protected export OUT against SOURCE from disk.

    Checks attributes, UIDs, provenance, background and budget of every instance, and measures
    fidelity by rows, each with a limit: 1 attributes, 2 voxels that may not change, 3 shifts of
    means, 4 noise, 5 its spectrum, 6 contrast, 7 PSNR and SSIM, 8 VIF, 9 just noticeable
    differences, 10 segmentation, 11 radiomics, 12 a model observer. Exit 9 when an instance is
    wrong, 5 when a limit is missed, 3 when series of SOURCE are not in OUT.
    The slices of a long series are shared by --jobs processes, and so are series.
    """
    from salm_dicom.batch.deidentify import existing
    from salm_dicom.batch.verify import verify
    from salm_dicom.dicom.sandbox import sandboxed

    limits, scope = measuring.limits, measuring.scope
    with sandboxed(sandbox), console.progress_to_stderr(progress) as show:
        found = verify(
            source,
            output,
            limits,
            measuring.intensity_range,
            show,
            scope=scope,
            cleaner=existing(vault or output.with_name(f"{output.name}.vault")),
            jobs=jobs or len(os.sched_getaffinity(0)),
        )
    if as_json:
        _emit(found)
    else:
        print_verification(found, output)
    return exit_code(found)


def exit_code(found: Verification) -> int:
    """Return the exit code of a verification."""
    objects = found.objects
    if not found.series and not found.strange and not objects.findings:
        return console.NOTHING
    codes = [console.MISMATCH] if found.strange or objects.findings else []
    codes += [console.MISMATCH for one in found.series if one.findings]
    codes += [console.LIMIT for one in found.series if one.missed]
    partial = found.absent or objects.absent or found.unused_regions
    codes += [console.PARTIAL] if partial else []
    return console.worst(codes)


def _emit(found: Verification) -> None:
    from dataclasses import asdict

    for one in found.series:
        values = asdict(one)
        values["verdicts"] = one.verdicts
        if values["fidelity"]:
            del values["fidelity"]["slices"]  # `report` shows them
        console.emit("series", **values)
    for path, reason in found.strange:
        console.emit("strange", path=str(path), reason=reason)
    for path, finding in found.objects.findings:
        console.emit("object", path=str(path), code=finding.code, reason=finding.text)
    console.emit(
        "summary",
        objects=found.objects.right,
        objects_wrong=len({path for path, _ in found.objects.findings}),
        objects_absent=found.objects.absent,
        series=len(found.series),
        wrong=sum(bool(one.findings) for one in found.series),
        limits_missed=sum(bool(one.missed) for one in found.series),
        absent=found.absent,
        strange=len(found.strange),
        unused_regions=found.unused_regions,
    )


def print_verification(found: Verification, output: Path) -> None:
    """Print fidelity and findings for each series, and a verdict."""
    rows = []
    for one in found.series:
        f = one.fidelity
        verdict = "WRONG" if one.findings else "limit missed" if one.missed else "ok"
        numbers = ("-",) * 5
        if f is not None:
            low, high = f.intensity_range
            numbers = (
                f"{f.psnr_db:.1f} dB", f"{f.ssim:.4f}", f"{f.mean_shift:.2g}",
                f"{f.largest_change:.3g}", f"{low:.4g}..{high:.4g}",
            )  # fmt: skip
        rows.append((printable(one.name), *numbers, verdict))
    click.echo("Measured from disk, lowest or largest of the slices:")
    if rows:
        head = ("series", "PSNR", "SSIM", "mean shift", "largest change", "range", "verdict")
        console.table(rows, head)
    _print_rows(found)
    for one in found.series:
        name = printable(one.name)
        for finding in one.findings[:5]:
            click.echo(f"  {name}: {finding.code}: {finding.text}")
        if len(one.findings) > 5:
            click.echo(f"  {name}: ... and {len(one.findings) - 5} more; --json lists all")
        for text in one.missed:
            click.echo(f"  {name}: limit missed: {text}")
    for path, reason in found.strange:
        click.echo(f"  {printable(str(path.relative_to(output)))}: {reason}")
    if found.absent:
        click.echo(f"  {found.absent} series of SOURCE are not in OUT")
    for path, finding in found.objects.findings:
        name = printable(str(path.relative_to(output)))
        click.echo(f"  {name}: {finding.code}: {finding.text}")
    if found.objects.absent:
        click.echo(f"  {found.objects.absent} objects of SOURCE have no copy in OUT")
    if found.unused_regions:
        click.echo(f"  {found.unused_regions} files of --regions mark nothing that is in OUT")
    if found.objects.right:
        click.echo(f"{found.objects.right} objects: copied, every reference leads where it should")
    wrong = sum(bool(one.findings) for one in found.series) + len(found.strange)
    wrong += len({path for path, _ in found.objects.findings})
    click.echo(
        f"{len(found.series)} series: every attribute, UID, background voxel and budget is right"
        if not wrong
        else f"{wrong} series or files are WRONG: do not share this output"
    )


def _print_rows(found: Verification) -> None:
    """Print each number that has a limit once: its worst value of all series, and how many miss."""
    from salm_dicom.batch.verified import row_of
    from salm_dicom.fidelity import MEASURES, ROWS

    groups: dict[tuple[int, str], list[tuple[Check, int]]] = {}
    for number, one in enumerate(found.series, start=1):
        for check in one.checks:
            groups.setdefault((check.row, check.name), []).append((check, number))
    rows = []
    for row in (1, 2):
        wrong = sum(one.verdicts[row] == "wrong" for one in found.series)
        count = sum(row_of(finding) == row for one in found.series for finding in one.findings)
        verdict = f"{wrong} wrong" if wrong else "met"
        rows.append((f"{row} {ROWS[row]}", "findings", str(count), "", "none", verdict))
    for (row, name), group in sorted(groups.items()):
        check, number = max(group, key=lambda pair: pair[0].beyond)
        missed = {series for one, series in group if one.is_missed}
        less = {series for one, series in group if not one.is_wanted}
        verdict = f"{len(missed)} missed" if missed else f"{len(less)} not as wanted"
        where = (f"series {number}", check.where, check.at)
        rows.append(
            (
                f"{row} {ROWS[row]}",
                MEASURES[name].title,
                check.shown,
                printable(", ".join(text for text in where if text)),
                check.shown_limit,
                verdict if missed or less else "met",
            )
        )
    if found.series:
        click.echo("\nRows with limits, worst of all series (--json has every one):")
        console.table(rows, ("row", "number", "worst", "in", "limit", "verdict"))
    lines: dict[str, list[str]] = {}
    for number, one in enumerate(found.series, start=1):
        for row, reason in one.unmeasured:
            lines.setdefault(f"row {row} not measured: {reason}", []).append(str(number))
    for text, numbers in lines.items():
        click.echo(f"  {printable(text)} (series {', '.join(numbers)})")
