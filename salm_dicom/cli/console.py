"""What people see: progress on stderr, lists and summaries, exit codes."""

from __future__ import annotations

import errno
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, ParamSpec

import click
from tqdm import tqdm

from salm_dicom.cli.options import printable
from salm_dicom.errors import (
    DiskFull,
    Locked,
    MismatchError,
    PlanError,
    SalmDicomError,
    UnsafeError,
)
from salm_dicom.trace import frames

P = ParamSpec("P")

DONE, UNEXPECTED, USAGE, PARTIAL, NOTHING, LIMIT, UNSAFE, NO_SPACE, LOCKED, MISMATCH = range(10)
INTERRUPTED = 130
# Which of several codes wins.
_ORDER = (UNEXPECTED, UNSAFE, NO_SPACE, MISMATCH, LIMIT, PARTIAL)
_EXIT_OF: dict[type[SalmDicomError], int] = {
    PlanError: USAGE,
    UnsafeError: UNSAFE,
    DiskFull: NO_SPACE,
    Locked: LOCKED,
    MismatchError: MISMATCH,
}
# Codes of left-out series that mean more than "partial", or less.
_EXIT_OF_CODE = {
    "E_UNEXPECTED": UNEXPECTED,
    "E_MISMATCH": MISMATCH,
    "E_NOT_CHOSEN": DONE,
    "E_REJECTED": DONE,
}
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
# So many files of one code are listed by name; --json lists all.
_LISTED = 10
# And so many rows of a table.
_ROWS = 1000


def worst(codes: Iterable[int]) -> int:
    """Return the exit code that wins; 0 when there is none."""
    found = set(codes)
    return next((code for code in _ORDER if code in found), DONE)


def exit_of(kind: type[SalmDicomError]) -> int:
    """Return the exit code of a command that an error ends."""
    return next((code for base, code in _EXIT_OF.items() if issubclass(kind, base)), PARTIAL)


def exit_of_left_out(codes: Iterable[str]) -> list[int]:
    """Return the exit codes that left-out files and series stand for."""
    return [_EXIT_OF_CODE.get(code, PARTIAL) for code in codes]


def reports_errors(function: Callable[P, int]) -> Callable[P, None]:
    """Turn our errors into a message and an exit code; no traceback ever reaches the user."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        log_file = kwargs.get("log_file")
        if isinstance(log_file, Path):
            _check_log(log_file, [kwargs.get(place) for place in ("source", "output", "protected")])
        if not sys.warnoptions:  # libraries quote what they warn of, and that may be a patient's
            warnings.simplefilter("ignore")
        try:
            code = function(*args, **kwargs)
        except SalmDicomError as error:
            code = exit_of(type(error))
            say(f"error: {error} [{error.code}]")
        except KeyboardInterrupt:
            code = INTERRUPTED
            say("interrupted; finished series are kept. Run the same command again to go on")
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except SystemExit:
            raise
        except BaseException as error:  # a codec in Rust panics past Exception
            code = _failed(error, log_file)
        _leave(code)

    return run


def _check_log(path: Path, places: Iterable[object]) -> None:
    """Refuse a log file among images, or one that cannot be written, before anything is done."""
    if any(p.resolve() in path.resolve().parents for p in places if isinstance(p, Path)):
        raise click.UsageError("--log-file must lie outside SOURCE and the output")
    try:
        append_log(path, [])
    except OSError as error:
        raise click.UsageError(f"--log-file cannot be written ({type(error).__name__})") from error


def _failed(error: BaseException, log_file: object) -> int:
    """Say what an error that is none of ours means, and return the exit code."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        say("error: no space left; make room and run the same command again")
        return NO_SPACE
    if number in _NOT_WRITABLE:
        say(
            f"error: a file or folder cannot be written ({type(error).__name__}); give places "
            "where you may write"
        )
        return USAGE
    return _unexpected(error, log_file)


def _unexpected(error: BaseException, log_file: object) -> int:
    """Say that something unforeseen happened, keep where, and return the exit code."""
    say(f"unexpected {type(error).__name__}; --log-file FILE keeps where it happened")
    if isinstance(log_file, Path):
        with suppress(OSError):  # the disk may be what failed
            append_log(log_file, [frames()])
    return UNEXPECTED


def _leave(code: int) -> NoReturn:
    sys.exit(code)


def say(text: str) -> None:
    """Write one line for the operator to stderr."""
    click.echo(printable(text), err=True)


def emit(kind: str, /, **values: Any) -> None:
    """Write one JSON line to stdout; its first field is the kind of message."""
    click.echo(json.dumps({"type": kind, **values}))


def append_log(path: Path, lines: Iterable[str]) -> None:
    """Append lines with a time stamp to the log file."""
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(f"{stamp} {line}\n" for line in lines)


@contextmanager
def progress_to_stderr(mode: str) -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress function: a bar for each phase on a terminal, a line otherwise."""
    bars: dict[str, tqdm] = {}
    is_terminal, last = sys.stderr.isatty(), ""

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if mode == "none" or total == 0:
            return
        is_new, last = what != last, what
        if not is_terminal:
            if is_new or done in (0, total):
                say(f"{what}: {done} of {total}")
            return
        if is_new:
            for bar in bars.values():
                bar.close()
            bars[what] = tqdm(total=total, initial=done, desc=what, unit="", file=sys.stderr)
        bars[what].update(done - bars[what].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def list_left_out(entries: Iterable[tuple[Path, str, str]], root: Path) -> None:
    """Print what was left out, by code, with the first files of each and what to do."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    counts = Counter[tuple[str, str]]()
    for path, code, reason in entries:
        counts[code, reason] += 1
        names = by_reason.setdefault((code, reason), [])
        if len(names) < _LISTED:
            inside = path.relative_to(root) if path.is_relative_to(root) else path
            names.append(str(inside))
    if not by_reason:
        return
    click.echo(f"\nLeft out: {counts.total()} files")
    for key, names in sorted(by_reason.items()):
        click.echo(f"  {key[0]}  {printable(key[1])}  ({counts[key]})")
        for name in names:
            click.echo(f"      {printable(name)}")
        if counts[key] > len(names):
            click.echo(f"      ... and {counts[key] - len(names)} more; --json lists all")


def counted(codes: Iterable[str]) -> Mapping[str, int]:
    """Return how often each code occurs, by code."""
    return dict(sorted(Counter(codes).items()))


def kinds(names: Iterable[str]) -> str:
    """Return how often each kind of object occurs, for people."""
    return ", ".join(f"{count} {name}" for name, count in counted(names).items())


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...]) -> None:
    """Print a table with left-aligned columns, of so many rows as anybody reads; or nothing."""
    rest = iter(rows)
    shown = list(islice(rest, _ROWS))
    if not shown:
        return
    widths = [max(len(row[i]) for row in (head, *shown)) for i in range(len(head))]
    for row in (head, *shown):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  " + line.rstrip())
    more = sum(1 for _ in rest)
    if more:
        click.echo(f"  ... and {more} more; --json lists all")
