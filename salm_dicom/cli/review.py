"""`salm-dicom review apply`: what reviewers decided in a report's pages, taken back."""

from __future__ import annotations

from pathlib import Path

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import FOLDER, json_option, log_option, printable

EXAMPLES = """\b
Examples:
  salm-dicom review apply review.json shared/
  salm-dicom review apply *.review.json shared/ --vault shared.vault/
"""
_SAID = {
    "accept": "accepted: in OUT",
    "reject": "REJECTED: moved to the vault",
    "comment": "comment noted in the vault",
}


@click.group("review", epilog=EXAMPLES)
def command() -> None:
    """Apply what reviewers decided in the pages of a report."""


@command.command("apply", epilog=EXAMPLES)
@click.argument("reviews", metavar="REVIEW.json...", type=FOLDER, nargs=-1, required=True)
@click.argument("output", metavar="OUT", type=FOLDER)
@click.option("--vault", type=FOLDER, help="Of the run that made OUT. Default: OUT.vault")
@json_option
@log_option
@console.reports_errors
def apply(
    reviews: tuple[Path, ...],
    output: Path,
    vault: Path | None,
    as_json: bool,
    log_file: Path | None,
) -> int:
    """Move what was rejected out of OUT; bring back what is accepted after all.

    A rejected series goes to the vault whole, OUT's manifest, DICOMDIR and references no longer
    count on it, and later runs leave it out. Accepting it undoes that. SOURCE is not touched. A
    review of other pixels than those in OUT is refused (exit 9); a file that is no review of OUT is
    listed (exit 3) and the others are applied.
    """
    from salm_dicom.batch.reviewed import apply_reviews

    vault = vault or output.with_name(output.name + ".vault")
    found = apply_reviews(reviews, output, vault)
    if as_json:
        for folder, decision in found.done:
            console.emit("applied", folder=folder, decision=decision)
        for path, code, reason in found.refused:
            console.emit("refused", path=str(path), code=code, reason=reason)
        console.emit("summary", applied=len(found.done), refused=len(found.refused))
    else:
        for folder, decision in found.done:
            click.echo(f"  {folder}  {_SAID[decision]}")
        for path, code, reason in found.refused:
            click.echo(f"  NOT applied: {printable(path.name)}: {code} {printable(reason)}")
    return console.worst(console.exit_of_left_out(code for _, code, _ in found.refused))
