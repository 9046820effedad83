"""Every file of an export, one by one: its header, or the code that says why it stays outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from salm_dicom.dicom.admit import instance_header
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.errors import InputError, NotRegularFile, UnexpectedFailure, Unreadable
from salm_dicom.trace import frames


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One file that is not protected: where, the code, what to do about it.

    `frames` says where an error happened that nobody foresaw, for the log file.
    """

    path: Path
    code: str
    reason: str
    frames: str = ""

    @classmethod
    def unforeseen(cls, path: Path, error: Exception) -> LeftOut:
        """Return the entry of a file at which we failed: a bad file never ends a run."""
        reason = f"an unforeseen {type(error).__name__}; --log-file has where it happened"
        return cls(path, UnexpectedFailure.code, reason, frames())


def admitted(
    root: Path, allow_quantitative: bool = False
) -> Iterator[InstanceHeader | ObjectHeader | LeftOut | Path]:
    """Yield for each file under `root` its header, or why it stays outside; a path: a DICOMDIR."""
    for path in walk(root):
        yield path if isinstance(path, LeftOut) else admit(path, root, allow_quantitative)


def walk(root: Path) -> Iterator[Path | LeftOut]:
    """Yield every file under `root` in a fixed order, and at last folders that cannot be read."""
    unreadable: list[OSError] = []
    yield from _walk(root, unreadable.append)
    for fault in unreadable:
        yield LeftOut(Path(fault.filename), Unreadable.code, "the folder cannot be read")


def admit(
    path: Path, root: Path, allow_quantitative: bool = False
) -> InstanceHeader | ObjectHeader | LeftOut | Path:
    """Return the header of a file under `root`, or why it stays outside; a path: a DICOMDIR."""
    try:
        _check_inside(path, root)
        return instance_header(path, allow_quantitative=allow_quantitative) or path
    except InputError as error:
        return LeftOut(path, error.code, str(error))
    except Exception as error:
        return LeftOut.unforeseen(path, error)


def _check_inside(path: Path, root: Path) -> None:
    """Raise when a link leads out of the export or round in a circle."""
    if path == root or not path.is_symlink():
        return
    try:
        inside = root.resolve() in path.resolve(strict=True).parents
    except (OSError, RuntimeError):
        inside = False
    if not inside:
        raise NotRegularFile("a link that leads nowhere, or out of the export")


def _walk(root: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield every file under `root` in a fixed order, and links to folders, not followed."""
    if not root.is_dir():
        yield root
        return
    for folder, folders, files in os.walk(root, onerror=on_error):
        folders.sort()
        here = Path(folder)
        yield from (here / name for name in folders if (here / name).is_symlink())
        yield from (here / name for name in sorted(files))
