"""`salm-dicom report`: what verify measures, as HTML pages with a viewer."""

from __future__ import annotations

from pathlib import Path

import click

from salm_dicom.cli import console
from salm_dicom.cli.measuring import Measuring, measuring_options
from salm_dicom.cli.options import (
    FOLDER,
    log_option,
    progress_option,
    sandbox_option,
    vault_option,
)
from salm_dicom.cli.verify import exit_code, print_verification


@click.command(
    "report", epilog="Example:  salm-dicom report shared/ --source export/ -o shared.report/"
)
@click.argument("output", metavar="OUT", type=FOLDER)
@click.option("--source", type=FOLDER, required=True, help="The export that OUT was made from.")
@click.option(
    "-o",
    "--output",
    "target",
    type=FOLDER,
    required=True,
    help="A new folder for the pages; not in OUT.",
)
@click.option(
    "--max-mb",
    type=click.FloatRange(min=0.001),
    default=32,
    show_default=True,
    help="Most that the pixels of a page take. Beyond, fewer slices are in it, and it says so.",
)
@click.option(
    "--viewer",
    type=click.Choice(["canvas", "niivue"]),
    default="canvas",
    show_default=True,
    help="canvas: slice by slice, in any browser. niivue: planes and 3-D by NiiVue, needs WebGL 2.",
)
@vault_option
@measuring_options
@progress_option
@sandbox_option
@log_option
@console.reports_errors
def command(
    output: Path,
    source: Path,
    target: Path,
    max_mb: float,
    viewer: str,
    vault: Path | None,
    measuring: Measuring,
    progress: str,
    sandbox: bool,
    log_file: Path | None,
) -> int:
    """Write an HTML page for each series of OUT, and an index.html that lists them.

    Pages open in any browser without a network: source, protected and difference with one window,
    flicker, values under the pointer, and what verify measures, with its limits and exit status.
    They show pixels of SOURCE: keep them where the vault is.
    """
    from salm_dicom.batch.deidentify import existing
    from salm_dicom.batch.report import INDEX_PAGE, Request, report
    from salm_dicom.dicom.sandbox import sandboxed

    request = Request(
        source=source,
        output=output,
        target=target,
        limits=measuring.limits,
        window=measuring.intensity_range,
        scope=measuring.scope,
        cleaner=existing(vault or output.with_name(f"{output.name}.vault")),
        cap=round(max_mb * 1_000_000),
        viewer=viewer,
    )
    with sandboxed(sandbox), console.progress_to_stderr(progress) as show:
        found = report(request, show)
    print_verification(found, output)
    if found.series:
        click.echo(f"Report, to keep private: {target / INDEX_PAGE}")
    else:
        console.say("no report: no series of SOURCE is in OUT")
    return exit_code(found)
