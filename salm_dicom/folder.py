"""WholeFolder: files that appear together, flushed to disk, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from salm_dicom.errors import MismatchError


class WholeFolder:
    """A new folder that gets its name only when every file in it is on disk.

    Files are written into `<name>.partial` beside the target, for their owner only (0600 in
    0700), and flushed by a thread of its own while the next one is made. Leaving the context
    without an error renames the folder; an error removes it.

    Parameters
    ----------
    target
        Must not exist.

    Raises
    ------
    MismatchError
        The target exists.
    """

    def __init__(self, target: Path) -> None:
        if target.exists():
            raise MismatchError("the target folder exists; it is never overwritten")
        self.target = target
        self._partial = target.with_name(f"{target.name}.partial")
        self._flusher = ThreadPoolExecutor(1)
        self._flushed: list[Future[None]] = []

    def __enter__(self) -> WholeFolder:
        shutil.rmtree(self._partial, ignore_errors=True)
        make_private(self._partial)
        return self

    def write(self, name: str, data: bytes) -> None:
        """Write one file; its bytes are on disk when the context has been left."""
        path = self._partial / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as stream:
            left = memoryview(data)
            while left:
                left = left[stream.write(left) :]
        self._flushed.append(self._flusher.submit(flush, path))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._flusher.shutdown(wait=True, cancel_futures=error is not None)
            if error is None:
                for done in self._flushed:
                    done.result()
                flush(self._partial)
                self._partial.rename(self.target)
                flush(self.target.parent)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def file_name(folder: str, number: int) -> str:
    """Return the name of an instance; in a folder named for media, one of PS3.10 8.5."""
    is_for_media = re.fullmatch(r"SE\d{6}", folder.rpartition("/")[2])
    return f"IM{number:06d}" if is_for_media else f"{number:05d}.dcm"


def make_private(folder: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner only (0700)."""
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)


def flush(path: Path) -> None:
    """Wait until a file or the entries of a folder are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
