"""`salm-dicom push`: send the DICOM files of a folder to a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from salm_dicom.cli import console
from salm_dicom.cli.network import connected, network_options, report
from salm_dicom.cli.options import FOLDER, json_option, log_option, progress_option
from salm_dicom.errors import PlanError

EXAMPLES = """\b
Examples:
  salm-dicom push shared/ https://pacs.example/dicom-web
  salm-dicom push shared/ dicoms://RESEARCH@pacs.example:2762 --ca hospital.pem
"""


@click.command("push", epilog=EXAMPLES)
@click.argument("source", metavar="FOLDER", type=FOLDER)
@click.argument("pacs")
@network_options
@json_option
@progress_option
@log_option
@console.reports_errors
def command(
    source: Path,
    pacs: str,
    as_json: bool,
    progress: str,
    log_file: Path | None,
    **access: Any,
) -> int:
    """Send every DICOM file below FOLDER to PACS, over DICOMweb or DIMSE, as it is.

    What the PACS has already is not sent again, so a second run goes on where one ended. Manifest
    and NIfTI files stay. Exit 3 when a file is not taken.
    """
    from salm_dicom.batch.transfer import push

    if not source.is_dir():
        raise PlanError("FOLDER does not exist; give the output of `salm-dicom protect`")
    with connected(pacs, **access) as node, console.progress_to_stderr(progress) as show:
        found = push(node, source, show)
    return report(found, "Sent", source, as_json)
