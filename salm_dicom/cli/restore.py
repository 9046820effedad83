"""`salm-dicom restore`: the source instances of a protected export, from the vault."""

from __future__ import annotations

from pathlib import Path

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import FOLDER, json_option, log_option, printable, progress_option


@click.command("restore", epilog="Example:  salm-dicom restore shared/ -o back/")
@click.argument("protected", metavar="OUT", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, required=True, help="A new folder for the sources.")
@click.option("--vault", type=FOLDER, help="Of the run that made OUT. Default: OUT.vault")
@json_option
@progress_option
@log_option
@console.reports_errors
def command(
    protected: Path,
    output: Path,
    vault: Path | None,
    as_json: bool,
    progress: str,
    log_file: Path | None,
) -> int:
    """Give back the source of every instance in OUT, bit for bit; copied objects too.

    Uncompressed sources come back as the very file; of compressed ones the stored values come
    back, compressed anew without loss. Exit 9 when an instance cannot be restored.
    """
    from salm_dicom.batch.restore import restore

    vault = vault or protected.with_name(protected.name + ".vault")
    with console.progress_to_stderr(progress) as show:
        found = restore(protected, vault, output, show)
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
    if found.failed:
        return console.MISMATCH
    return console.DONE if found.identical + found.recompressed else console.NOTHING
