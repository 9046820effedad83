"""Files and folders that appear whole and flushed, or not at all; folders held by one run."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from salm_dicom.errors import Locked, MismatchError

# How long a run waits for workers of one that was killed.
_PATIENCE_S = 30


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


def digest_of_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the bytes of files; one that cannot be read counts as such."""
    found = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            found.update(type(error).__name__.encode())
    return found.hexdigest()


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


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Give a stream to a file of mode 0600 that is there whole and on disk, or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 that is there whole and on disk, or not at all."""
    with atomic(path) as stream:
        stream.write(data)
    flush(path.parent)


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for one run, after the workers of an earlier one that was killed are gone.

    Parameters
    ----------
    what
        What the run writes, for people.

    Raises
    ------
    Locked
        Another run holds it.
    """
    with _opened(folder / "lock") as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Locked(f"another run is writing to {what}; wait until it has ended") from error
        _wait_for_workers(folder, what)
        yield


@contextmanager
def working(folder: Path) -> Iterator[None]:
    """Say that a worker is writing, so that no other run begins before it has ended."""
    with _opened(folder / "workers") as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield


def _wait_for_workers(folder: Path, what: str) -> None:
    with _opened(folder / "workers") as descriptor:
        for _ in range(_PATIENCE_S * 20):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.05)
            else:
                return
    raise Locked(f"a worker of an earlier run is still writing to {what}; end it first")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
