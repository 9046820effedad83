"""Crew: this process and copies of it, which share one piece of work and its arrays."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from salm_dicom.shared import settle, shared

T = TypeVar("T")
R = TypeVar("R")

# A copy is whole where a process can be forked at any time; elsewhere all is done here.
CAN_COPY = sys.platform == "linux"
# linux/prctl.h
_PR_SET_PDEATHSIG = 1
# Bytes before a result that say how long it is.
_HEAD = 8


@dataclass(frozen=True, slots=True)
class Crew:
    """So many processes that share one piece of work: this one, and copies that are forked of it.

    A copy sees everything that is in memory here, starts in milliseconds and gives back what its
    items gave. What it writes stays with it, but for arrays made by `empty` and `zeros`. Threads do
    not live on in it: nothing that a crew does may need those of torch or of SimpleITK.
    """

    workers: int = 1

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return what `work` gives for each item, in order, whoever did it.

        Raises
        ------
        BrokenExecutor
            A copy died.
        Exception
            What `work` raises for the first item for which it does.
        """
        todo = list(items)
        shares = 1 if self._is_alone else max(1, min(self.workers, len(todo)))
        ends = [len(todo) * number // shares for number in range(shares + 1)]
        copies: list[_Copy[T, R]] = []
        try:
            for start, stop in pairwise(ends[1:]):
                copies.append(_Copy(work, todo[start:stop]))
            found = [work(item) for item in todo[: ends[1]]]
            for copy in copies:
                found += copy.results()
            return found
        finally:
            for copy in copies:
                copy.end()

    def together(self, one: Callable[[], R], other: Callable[[], T]) -> tuple[R, T]:
        """Return what both give."""
        first, second = self.map(_called, (one, other))
        return first, second

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array that copies of this process write to as well; its values are anything."""
        return np.empty(shape, dtype) if self._is_alone else shared(shape, np.dtype(dtype))

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return such an array of zeros."""
        return np.zeros(shape, dtype) if self._is_alone else shared(shape, np.dtype(dtype))

    def ready(self, part: NDArray[Any]) -> None:
        """Give a part of such an array its memory, before it is written; see `shared.settle`."""
        if not self._is_alone:
            settle(part)

    @property
    def _is_alone(self) -> bool:
        return self.workers < 2 or not CAN_COPY


ALONE = Crew()


def _called(work: Callable[[], Any]) -> Any:
    return work()


class _Copy(Generic[T, R]):
    """A fork of this process that works on some items and ends."""

    def __init__(self, work: Callable[[T], R], items: list[T]) -> None:
        self._answer, out = os.pipe()
        try:
            with interrupts_wait():
                self._process = os.fork()
                if not self._process:
                    _serve(work, items, out)
        except OSError:
            os.close(self._answer)
            raise
        finally:
            os.close(out)

    def results(self) -> list[R]:
        """Return what it found, when it is done, or raise what it met."""
        with os.fdopen(self._answer, "rb", closefd=False) as stream:
            length = int.from_bytes(stream.read(_HEAD))
            answer = stream.read()
        if not length or len(answer) != length:
            raise BrokenExecutor("a copy of this process died")
        error, found = pickle.loads(answer)  # pickled below, by ourselves
        if error is not None:
            raise error
        return list(found)

    def end(self) -> None:
        """End it, done or not."""
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)
        os.close(self._answer)


def _serve(work: Callable[[T], R], items: list[T], out: int) -> NoReturn:
    """Be the copy: do the work, say what came of it, and end without cleaning up for the other."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        gc.freeze()  # to look at what the other made would copy it
        try:
            answer = pickle.dumps((None, [work(item) for item in items]), protocol=5)
        except Exception as error:
            answer = _dumped(error)
        with os.fdopen(out, "wb") as stream:
            stream.write(len(answer).to_bytes(_HEAD))
            stream.write(answer)
    finally:
        os._exit(0)


def _dumped(error: Exception) -> bytes:
    try:
        return pickle.dumps((error, None))
    except Exception:
        return pickle.dumps((RuntimeError(f"an unforeseen {type(error).__name__}"), None))


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let an interrupt wait, which what runs around a fork would swallow."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent() -> None:
    """End this process when the one that started it is gone, where the kernel can do that."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
