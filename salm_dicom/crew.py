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
# Bytes before a result that say how long it is, and of the number of an item.
_HEAD, _TURN = 8, 4
# Items that are taken at once: neighbours, so that what lies in one large page has one owner, but
# few enough for so many turns each. All turns fit into the smallest pipe, a page.
_AT_ONCE, _TURNS, _MOST_TURNS = 8, 4, 1024


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

        Whoever is free takes the next few items: who starts late or is slow does less.

        Raises
        ------
        BrokenExecutor
            A copy died.
        Exception
            What `work` raises for the first item for which it does.
        """
        todo = list(items)
        shares = 1 if self._is_alone else max(1, min(self.workers, len(todo)))
        if shares == 1:
            return [work(item) for item in todo]
        turns = _Turns(len(todo), shares)
        copies: list[_Copy[T, R]] = []
        try:
            for _ in range(shares - 1):
                copies.append(_Copy(work, todo, turns))
            done = [_done(work, todo, turns), *(copy.results() for copy in copies)]
        finally:
            for copy in copies:
                copy.end()
            turns.end()
        failed = [one.failed for one in done if one.failed is not None]
        if failed:
            raise min(failed, key=lambda one: one[0])[1]
        found = {index: result for one in done for index, result in one.found.items()}
        return [found[index] for index in range(len(todo))]

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


class _Turns:
    """Whose turn it is: numbers of items in a pipe, of which each is read by one process.

    They are in order; so whatever is the first item to fail, somebody has taken it.
    """

    def __init__(self, items: int, processes: int) -> None:
        self._items = items
        self._at_once = max(
            1, min(_AT_ONCE, items // (_TURNS * processes)), -(-items // _MOST_TURNS)
        )
        self._from, to = os.pipe()
        starts = np.arange(0, items, self._at_once, dtype=np.int32)
        os.write(to, starts.tobytes())
        os.close(to)

    def __iter__(self) -> Iterator[int]:
        """Yield items to do that nobody else does."""
        while start := os.read(self._from, _TURN):
            first = int.from_bytes(start, sys.byteorder)
            yield from range(first, min(first + self._at_once, self._items))

    def stop(self) -> None:
        """Take what nobody took yet, so that nobody does it."""
        while os.read(self._from, _TURN * _MOST_TURNS):
            pass

    def end(self) -> None:
        """Close the pipe, here."""
        os.close(self._from)


@dataclass(frozen=True, slots=True)
class _Done(Generic[R]):
    """What one process did: results by the number of the item, and where it failed."""

    found: dict[int, R]
    failed: tuple[int, Exception] | None = None


def _done(work: Callable[[T], R], items: list[T], turns: _Turns) -> _Done[R]:
    """Do what it is this process' turn to do."""
    found: dict[int, R] = {}
    for index in turns:
        try:
            found[index] = work(items[index])
        except Exception as error:
            turns.stop()
            return _Done(found, (index, error))
    return _Done(found)


class _Copy(Generic[T, R]):
    """A fork of this process that takes its turns at some items and ends."""

    def __init__(self, work: Callable[[T], R], items: list[T], turns: _Turns) -> None:
        self._answer, out = os.pipe()
        try:
            with interrupts_wait():
                self._process = os.fork()
                if not self._process:
                    _serve(work, items, turns, out)
        except OSError:
            os.close(self._answer)
            raise
        finally:
            os.close(out)

    def results(self) -> _Done[R]:
        """Return what it did, when it is done."""
        with os.fdopen(self._answer, "rb", closefd=False) as stream:
            length = int.from_bytes(stream.read(_HEAD))
            answer = stream.read()
        if not length or len(answer) != length:
            raise BrokenExecutor("a copy of this process died")
        found: _Done[R] = pickle.loads(answer)  # pickled below, by ourselves
        return found

    def end(self) -> None:
        """End it, done or not."""
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)
        os.close(self._answer)


def _serve(work: Callable[[T], R], items: list[T], turns: _Turns, out: int) -> NoReturn:
    """Be the copy: do the work, say what came of it, and end without cleaning up for the other."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with_parent()
        gc.freeze()  # to look at what the other made would copy it
        answer = _dumped(_done(work, items, turns))
        with os.fdopen(out, "wb") as stream:
            stream.write(len(answer).to_bytes(_HEAD))
            stream.write(answer)
    finally:
        os._exit(0)


def _dumped(done: _Done[Any]) -> bytes:
    try:
        return pickle.dumps(done, protocol=5)
    except Exception as unsendable:
        index, error = done.failed or (min(done.found, default=0), unsendable)
        named = RuntimeError(f"an unforeseen {type(error).__name__}")
        return pickle.dumps(_Done({}, (index, named)))


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
