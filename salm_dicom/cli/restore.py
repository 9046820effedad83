"""`salm-dicom restore`: the source instances of a protected export, from vault or envelopes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import (
    FOLDER,
    json_option,
    log_option,
    printable,
    progress_option,
    sandbox_option,
)
from salm_dicom.cli.options import private_key as key_of
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.batch.restore import Restored


EXAMPLES = """\b
Examples:
  salm-dicom restore shared/ -o back/
  salm-dicom restore shared/ -o back/ --private-key key.pem --certificate cert.pem
"""


@click.command("restore", epilog=EXAMPLES)
@click.argument("protected", metavar="OUT", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="A new folder for the sources.")
@click.option("--vault", type=FOLDER, help="Of the run that made OUT. Default: OUT.vault")
@click.option(
    "--private-key",
    type=FOLDER,
    metavar="KEY.pem",
    help="Restore without a vault, from what `protect --embed-recovery` put into the files.",
)
@click.option(
    "--certificate",
    type=FOLDER,
    metavar="CERT.pem",
    help="Of the private key. Default: in KEY.pem too.",
)
@json_option
@progress_option
@sandbox_option
@log_option
@console.reports_errors
def command(
    protected: Path,
    output: Path,
    vault: Path | None,
    private_key: Path | None,
    certificate: Path | None,
    as_json: bool,
    progress: str,
    sandbox: bool,
    log_file: Path | None,
) -> int:
    """Give back the source of every instance in OUT, bit for bit; copied objects too.

    Uncompressed sources come back as the very file; of compressed ones the stored values come
    back, compressed anew without loss. Exit 9 when an instance cannot be restored.
    """
    from salm_dicom.batch.restore import restore
    from salm_dicom.dicom.sandbox import sandboxed

    if private_key is not None and vault is not None:
        raise PlanError("give a vault or a private key, not both")
    if certificate is not None and private_key is None:
        raise PlanError("--certificate wants --private-key")
    key = None if private_key is None else key_of(private_key, certificate)
    vault = vault or protected.with_name(protected.name + ".vault")
    with sandboxed(sandbox), console.progress_to_stderr(progress) as show:
        if key is None:
            found = restore(protected, vault, output, show)
        else:
            from salm_dicom.batch.recover import recover

            found = recover(protected, key, output, show)
    _print(found, output, as_json)
    if found.failed:
        return console.MISMATCH
    return console.DONE if found.identical + found.recompressed else console.NOTHING


def _print(found: Restored, output: Path, as_json: bool) -> None:
    if as_json:
        for path, reason in found.failed:
            console.emit("failed", path=str(path), reason=reason)
        console.emit(
            "summary",
            identical=found.identical,
            recompressed=found.recompressed,
            failed=len(found.failed),
        )
    else:
        click.echo(f"Restored {found.identical + found.recompressed} files to {output}")
        click.echo(f"  {found.identical} are the source file, byte for byte")
        click.echo(f"  {found.recompressed} have the source's stored values, compressed anew")
        for path, reason in found.failed:
            click.echo(f"  NOT restored: {printable(str(path))}: {reason}")
