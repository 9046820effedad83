"""`salm-dicom demo`: scan, fit, protect and verify the real CT data bundled with the package."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import click

from salm_dicom.cli import console, scan
from salm_dicom.cli.options import FOLDER, created_option, creation_time, progress_option
from salm_dicom.cli.wanted import Wanted

METHOD = "salm"


@click.command("demo", epilog="Example:  salm-dicom demo -o demo_output")
@click.option("-o", "--output", type=FOLDER, required=True, help="A folder for what it makes.")
@created_option
@progress_option
@console.reports_errors
def command(output: Path, created: str | None, progress: str) -> int:
    """Protect bundled real CT data end to end, and measure what came of it.

    32 images: 12 single slices of 4 patients (TCIA COVID-19-NY-SBU, CC BY 4.0) and a JPEG 2000
    series of 20 slices (TotalSegmentator, Apache-2.0). The labels are the planes (axial, coronal,
    sagittal).
    """
    with as_file(files("salm_dicom") / "demo_data") as data:
        return _run(data, output, created, progress)


def _run(data: Path, output: Path, created: str | None, progress: str) -> int:
    from salm_dicom.batch.labels import Labels
    from salm_dicom.batch.protect import Request, protect
    from salm_dicom.batch.verify import verify
    from salm_dicom.cli.protect import print_result
    from salm_dicom.cli.verify import exit_code, print_verification
    from salm_dicom.dicom.derive import PUBLIC_SITE_KEY
    from salm_dicom.fidelity import Limits
    from salm_dicom.plan import ProtectionPlan

    export, shared, vault = data / "export", output / "protected", output / "protected.vault"
    click.echo("1  What is in the export (salm-dicom scan)\n")
    scan.show(export, Wanted(), as_json=False)
    click.echo("\n2  Fit a surrogate and protect (salm-dicom protect)\n")
    request = Request(
        source=export,
        output=shared,
        vault=vault,
        plan=ProtectionPlan(method=METHOD),
        protector=None,
        labels=Labels.read(data / "labels.csv", by="series", root=export),
        created=creation_time(created),
        site_key=PUBLIC_SITE_KEY,
    )
    with console.progress_to_stderr(progress) as show:
        result = protect(request, show)
        print_result(result, export, shared, vault)
        click.echo("\n3  Measure it against the source (salm-dicom verify)\n")
        found = verify(export, shared, Limits(), progress=show)
    print_verification(found, shared)
    click.echo(f"""
Next
  look     salm-dicom report {shared} --source {export} -o {output / "report"}
           or open both folders side by side in a DICOM viewer
  your own salm-dicom scan EXPORT
           salm-dicom protect EXPORT -o OUT --labels labels.csv
           salm-dicom verify EXPORT OUT
  pipeline README.md, "In a MONAI pipeline"
What it does not do: stop a determined party. See README.md, "What it protects against".""")
    if not result.done:
        return console.NOTHING
    return exit_code(found)
