"""Pages that are made from the code: every command with its help, every error with its code."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click

from salm_dicom import errors
from salm_dicom.batch import review  # noqa: F401, its errors
from salm_dicom.cli import console
from salm_dicom.cli.main import COMMANDS, main

_WIDTH = 96


def write_pages(folder: Path) -> None:
    """Write `commands.md` and `errors.md`, where they are not as they should be already."""
    folder.mkdir(exist_ok=True)
    for name, text in (("commands.md", commands_page()), ("errors.md", errors_page())):
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands_page() -> str:
    """Return a section for each command: what `--help` prints."""
    parts = ["# Commands", "What `salm-dicom COMMAND --help` prints.", _block(main, "salm-dicom")]
    for name in COMMANDS:
        command = importlib.import_module(f"salm_dicom.cli.{name}").command
        parts += [f"## {name}", _block(command, f"salm-dicom {name}")]
        for sub, inner in getattr(command, "commands", {}).items():
            parts += [f"### {name} {sub}", _block(inner, f"salm-dicom {name} {sub}")]
    return "\n\n".join(parts) + "\n"


def _block(command: click.Command, name: str) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    return f"```text\n{command.get_help(context)}\n```"


def errors_page() -> str:
    """Return a table of every error: code, class, exit status of a command that it ends."""
    rows = [
        "# Errors",
        "Every error that is raised on purpose, from `salm_dicom.errors`. What a code means for a "
        "file, and what to do, is in the [reference](../reference/codes.md).",
        "| code | class | below | exit | what |\n|---|---|---|---|---|\n" + "\n".join(_rows()),
    ]
    return "\n\n".join(rows) + "\n"


def _rows(kind: type[errors.SalmDicomError] = errors.SalmDicomError) -> Iterator[str]:
    what = (kind.__doc__ or "").splitlines()[0]
    base = kind.__base__.__name__ if kind is not errors.SalmDicomError and kind.__base__ else ""
    yield f"| `{kind.code}` | `{kind.__name__}` | {base} | {console.exit_of(kind)} | {what} |"
    for one in kind.__subclasses__():
        yield from _rows(one)
