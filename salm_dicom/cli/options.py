"""Options that several commands share, and what their text means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from salm_dicom.dicom.envelope import Key

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path)
MODALITIES = ("CT", "MR", "CR", "DX", "MG")
LABELS_BY = ("series", "study", "patient", "instance", "path")


def as_one(name: str, record: type[Any]) -> Callable[[F], F]:
    """Give a command the options that are the fields of a record as one argument."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(**values: Any) -> Any:
            own = {field.name: values.pop(field.name) for field in fields(record)}
            return function(**values, **{name: record(**own)})

        return cast(F, call)

    return decorate


def source_argument(function: F) -> F:
    """Add SOURCE, an export that is only read."""
    return click.argument("source", type=FOLDER)(function)


def labels_options(function: F) -> F:
    """Add --labels and --labels-by."""
    function = click.option(
        "--labels-by",
        type=click.Choice(LABELS_BY),
        default="series",
        show_default=True,
        help="What the keys of the labels file are.",
    )(function)
    return click.option(
        "--labels",
        type=FOLDER,
        default=None,
        help="CSV file with the columns key and label.",
    )(function)


def masks_option(function: F) -> F:
    """Add --masks."""
    return click.option(
        "--masks",
        type=FOLDER,
        default=None,
        help="Labels of segmentation: a SEG, RTSTRUCT or NIfTI mask, or a folder of them; "
        "SOURCE itself where they lie in it.",
    )(function)


def modality_option(function: F) -> F:
    """Add --modality."""
    return click.option(
        "--modality",
        type=click.Choice(MODALITIES),
        default=None,
        help="What NIfTI files are whose .json beside them does not say.",
    )(function)


def quantitative_option(function: F) -> F:
    """Add --allow-quantitative."""
    return click.option(
        "--allow-quantitative",
        is_flag=True,
        help="Take PET, NM, maps and other images too whose values are measurements, which the "
        "protection falsifies; files and manifest say so.",
    )(function)


def vault_option(function: F) -> F:
    """Add --vault, of an output that was de-identified."""
    return click.option(
        "--vault",
        type=FOLDER,
        help="Of the run that made OUT; needed where that was de-identified. Default: OUT.vault",
    )(function)


def progress_option(function: F) -> F:
    """Add --progress auto|none."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "none"]),
        default="auto",
        show_default=True,
        help="A bar on a terminal, lines otherwise; or nothing.",
    )(function)


def json_option(function: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Results as JSON lines.")(function)


def sandbox_option(function: F) -> F:
    """Add --sandbox."""
    return click.option(
        "--sandbox",
        is_flag=True,
        help="Decode compressed files in a process of its own, bounded in memory and time.",
    )(function)


def log_option(function: F) -> F:
    """Add --log-file."""
    return click.option(
        "--log-file",
        type=FOLDER,
        default=None,
        help="Append where unforeseen errors happened; holds no patient values.",
    )(function)


def created_option(function: F) -> F:
    """Add --created."""
    return click.option(
        "--created",
        default=None,
        metavar="ISO-8601",
        help="Creation time written to every instance. Default: SOURCE_DATE_EPOCH, else now.",
    )(function)


def creation_time(text: str | None) -> datetime:
    """Return when the run began: the option, else SOURCE_DATE_EPOCH (UTC), else the clock.

    Raises
    ------
    PlanError
        The text is no time.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        if text is not None:
            return datetime.fromisoformat(text)
        if epoch:
            return datetime.fromtimestamp(int(epoch), tz=UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise PlanError(
            "the creation time is not understood; write --created 2026-01-31T12:00:00+00:00"
        ) from error
    return datetime.now().astimezone().replace(microsecond=0)


def site_key(path: Path | None, default: bytes) -> bytes:
    """Return the key of the UIDs' HMAC from a file of at least 16 bytes."""
    if path is None:
        return default
    try:
        key = path.read_bytes()
    except OSError as error:
        raise PlanError(f"the site key cannot be read ({type(error).__name__})") from error
    if len(key) < 16:
        raise PlanError(f"the site key has {len(key)} bytes; at least 16 are needed")
    return key


def recipients_of(path: Path) -> tuple[bytes, ...]:
    """Return the certificates of a PEM file, DER."""
    from salm_dicom.dicom.envelope import recipients

    return recipients(_pem(path))


def private_key(path: Path, certificate: Path | None) -> Key:
    """Return a private key with its certificate; both may be in one file.

    The password of an encrypted key is asked for on the terminal.
    """
    from salm_dicom.dicom.envelope import read_key

    def password() -> str:
        return str(click.prompt("Password of the private key", hide_input=True, err=True))

    return read_key(_pem(path), _pem(certificate or path), password)


def _pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"a PEM file cannot be read ({type(error).__name__})") from error


def printable(text: str) -> str:
    """Return text without control characters, so that no file name can drive a terminal."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "?", text)
