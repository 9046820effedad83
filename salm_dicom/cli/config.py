"""Settings from TOML files: defaults of the commands' options, checked before anything runs.

One table for each command, one key for each long option without its dashes:

    [protect]
    method = "random"
    jobs = 4
    intensity-range = [-160, 240]
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

# What names places belongs on the command line, where it can be seen.
_NEVER = {"output", "target", "help", "version"}

CommandOf = Callable[[str], click.Command | None]


def defaults(paths: list[Path], command_of: CommandOf) -> dict[str, dict[str, Any]]:
    """Return the defaults of each command; later files win.

    Raises
    ------
    click.UsageError
        A file cannot be read, or has a table, key or value that no command knows.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, table in _read(path).items():
            command = command_of(name)
            if command is None or not isinstance(table, Mapping):
                raise click.UsageError(f"{path.name}: [{name}] is no command of salm-dicom")
            found.setdefault(name, {}).update(_values(path, name, table, command))
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise click.UsageError(f"{path.name} cannot be read ({type(error).__name__})") from error
    except tomllib.TOMLDecodeError as error:
        raise click.UsageError(f"{path.name} is no TOML: {error}") from error


def _values(
    path: Path, name: str, table: Mapping[str, Any], command: click.Command
) -> dict[str, Any]:
    options = {
        text.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        for text in option.opts
        if text.startswith("--")
    }
    known = sorted(options.keys() - _NEVER)
    values = {}
    for key, value in table.items():
        if key not in known:
            raise click.UsageError(
                f"{path.name}: [{name}] has no option {key!r}; known are {', '.join(known)}"
            )
        option = options[key]
        if isinstance(value, Mapping) or isinstance(value, list) != _is_list(option):
            raise click.UsageError(f"{path.name}: [{name}] {key} has a value of the wrong kind")
        values[str(option.name)] = value
    return values


def _is_list(option: click.Option) -> bool:
    return option.multiple or option.nargs != 1
