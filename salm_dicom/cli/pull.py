"""`salm-dicom pull`: fetch studies from a PACS into the folder of an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from salm_dicom.cli import console
from salm_dicom.cli.network import connected, network_options, report
from salm_dicom.cli.options import FOLDER, json_option, log_option, progress_option
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.dicom.network.node import Query

EXAMPLES = """\b
Examples:
  salm-dicom pull https://pacs.example/dicom-web -o export/ --include study=1.2.3
  salm-dicom pull dicoms://ARCHIVE@pacs.example:2762 -o export/ --include date=20250101-20250131
"""


@click.command("pull", epilog=EXAMPLES)
@click.argument("pacs")
@click.option("-o", "--output", type=FOLDER, required=True, help="The folder of the export.")
@click.option(
    "--include",
    multiple=True,
    required=True,
    metavar="KEY=VALUE",
    help="What to fetch: study=UID  series=UID  patient=ID  date=20250101-20251231  "
    "modality=CT,MR. Of one key any value, of several keys all.",
)
@network_options
@json_option
@progress_option
@log_option
@console.reports_errors
def command(
    pacs: str,
    output: Path,
    include: tuple[str, ...],
    as_json: bool,
    progress: str,
    log_file: Path | None,
    **access: Any,
) -> int:
    """Fetch what is asked for from PACS, over DICOMweb or DIMSE, into a folder.

    PACS is https://HOST/dicom-web or dicom://AET@HOST:PORT; dicoms:// is DIMSE over TLS. Files come
    as they are stored, under names that say nothing of a patient. A second run fetches what is
    missing. Over DIMSE the PACS must allow C-GET.
    """
    from salm_dicom.batch.transfer import pull

    query = _query(include)
    with connected(pacs, **access) as node, console.progress_to_stderr(progress) as show:
        found = pull(node, query, output, show)
    return report(found, "Fetched", output, as_json)


def _query(include: tuple[str, ...]) -> Query:
    from salm_dicom.batch.selection import Criterion
    from salm_dicom.dicom.network.node import Query

    asked: dict[str, tuple[str, ...]] = {}
    for one in map(Criterion.parse, include):
        if one.key == "path":
            raise PlanError("a PACS has no paths; ask by study, series, patient, date or modality")
        asked[one.key] = (*asked.get(one.key, ()), *one.values)
    if asked.keys() <= {"series", "modality"}:
        raise PlanError("name a study, a patient or a date too: nobody wants all of a PACS")
    return Query(**asked)
