"""Options of `pull` and `push`: where the PACS is, and how the way to it is secured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from salm_dicom.cli import console
from salm_dicom.cli.options import FOLDER
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.batch.transfer import Transferred
    from salm_dicom.dicom.network.node import Node

F = TypeVar("F", bound=Callable[..., Any])


def network_options(function: F) -> F:
    """Add the options of TLS and of who we are."""
    for option in (
        click.option("--timeout", type=float, default=60, show_default=True, help="Seconds."),
        click.option("--token", "token_file", type=FOLDER, help="File with a bearer token."),
        click.option(
            "--user", default="", help="For HTTP; the password is asked for, or SALM_PASSWORD."
        ),
        click.option("--client-key", type=FOLDER, help="PEM: its key, where that is a file."),
        click.option("--client-cert", type=FOLDER, help="PEM: our certificate, for TLS."),
        click.option("--ca", type=FOLDER, help="PEM: whom to trust. Default: the system's."),
        click.option(
            "--aet", default="SALM_DICOM", show_default=True, help="Our title, for DIMSE."
        ),
    ):
        function = option(function)
    return function


@contextmanager
def connected(
    pacs: str,
    aet: str,
    ca: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    user: str,
    token_file: Path | None,
    timeout: float,
) -> Iterator[Node]:
    """Give the PACS at an address."""
    from salm_dicom.dicom.network.node import Access, node_of

    access = Access(
        url=pacs,
        aet=aet,
        ca=ca,
        certificate=client_cert,
        key=client_key,
        user=user,
        password=_password() if user else "",
        token="" if token_file is None else _token(token_file),
        seconds=timeout,
    )
    if access.is_open:
        console.say("warning: patients' data go over the network unencrypted; use https or dicoms")
    node = node_of(access)
    try:
        yield node
    finally:
        node.close()


def _password() -> str:
    return os.environ.get("SALM_PASSWORD") or str(
        click.prompt("Password", hide_input=True, err=True)
    )


def _token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"the token cannot be read ({type(error).__name__})") from error


def report(found: Transferred, what: str, root: Path, as_json: bool) -> int:
    """Print what came of a transfer and return the exit code."""
    if as_json:
        for entry in found.failed:
            console.emit("left_out", path=str(entry.path), code=entry.code, reason=entry.reason)
        console.emit("summary", done=found.done, there=found.there, failed=len(found.failed))
    else:
        click.echo(f"{what} {found.done} instances; {found.there} were there already")
        console.list_left_out(((e.path, e.code, e.reason) for e in found.failed), root)
    if not (found.done or found.there or found.failed):
        return console.NOTHING
    return console.PARTIAL if found.failed else console.DONE
