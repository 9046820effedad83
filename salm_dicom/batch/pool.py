"""Work that is handed out in parts and comes back in order, by workers that stay for all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import islice
from typing import Generic, TypeVar

from salm_dicom.batch.engines import LOST, SerialExecutor, start
from salm_dicom.batch.job import CRASHES

T = TypeVar("T")
R = TypeVar("R")
# Jobs that may wait for each worker; an export of a million series does not sit in memory.
_WAITING = 3
# So few parts are done in this process, where no other must be started for them.
_WORTH_A_WORKER = 4


class Queue(Generic[T]):
    """Jobs in order, taken from where they come when it is their turn; those put back go first."""

    def __init__(self, jobs: Iterable[T]) -> None:
        self._rest, self._first = iter(jobs), deque[T]()

    def __bool__(self) -> bool:
        if not self._first:
            self._first.extend(islice(self._rest, 1))
        return bool(self._first)

    def has(self, count: int) -> bool:
        """Return whether there are so many."""
        self._first.extend(islice(self._rest, max(0, count - len(self._first))))
        return len(self._first) >= count

    def first(self) -> T:
        """Return the one whose turn it is."""
        return self._first[0]

    def pop(self) -> None:
        """Take it away."""
        self._first.popleft()

    def put_back(self, job: T) -> None:
        """Make it the next one."""
        self._first.appendleft(job)


class Pool:
    """Does work in parts, on one engine that is started when it is first worth it, and kept.

    Parameters
    ----------
    engine, workers
        As for `engines.start`.
    """

    def __init__(self, engine: str, workers: int) -> None:
        self._engine = "serial" if workers < 2 and engine == "local" else engine
        self._workers = workers
        self._executor: Executor | None = None
        self._lost = 0

    def each(
        self,
        work: Callable[[T], R],
        parts: Iterable[T],
        *,
        least: int = _WORTH_A_WORKER,
        lost: Callable[[T], R] | None = None,
    ) -> Iterator[R]:
        """Yield what `work` makes of each part, in order; a few are under way at a time.

        A process that dies costs the time of what it was at.

        Parameters
        ----------
        least
            Fewer parts are done here, where no process must be started for them.
        lost
            What is yielded for a part that stood alone when its process died for the third time;
            None: after three deaths this process goes on alone.
        """
        todo, deaths, alone = Queue(parts), 0, 0
        if self._executor is None and not todo.has(least):
            while todo:
                yield work(todo.first())
                todo.pop()
        while todo:
            waiting: deque[tuple[Future[R], T]] = deque()
            executor = self._executor = self._executor or start(self._engine, self._workers)
            try:
                while todo or waiting:
                    most = 1 if alone else at_once_on(executor, self._workers)
                    while todo and len(waiting) < most:
                        waiting.append((executor.submit(work, todo.first()), todo.first()))
                        todo.pop()
                    yield waiting[0][0].result()
                    waiting.popleft()
                    deaths, alone = 0, max(0, alone - 1)
            except LOST:
                if self._engine == "serial":
                    raise
                self.end()
                for _, part in reversed(waiting):
                    todo.put_back(part)
                deaths += 1
                self._lost += 1
                if lost is not None:
                    alone = max(alone, len(waiting))
                    if deaths >= CRASHES:
                        yield lost(todo.first())
                        todo.pop()
                        deaths = 0
                elif self._lost >= CRASHES:
                    self._engine = "serial"

    def end(self) -> None:
        """End the engine, after what is under way."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


@contextmanager
def pool(engine: str, workers: int) -> Iterator[Pool]:
    """Give a pool that is ended with the context."""
    found = Pool(engine, workers)
    try:
        yield found
    finally:
        found.end()


def in_order(
    work: Callable[[T], R],
    workers: int,
    engine: str,
    parts: Iterable[T],
    *,
    least: int = _WORTH_A_WORKER,
    lost: Callable[[T], R] | None = None,
) -> Iterator[R]:
    """Yield what `work` makes of each part, in order, with a pool of its own; see `Pool.each`."""
    with pool(engine, workers) as found:
        yield from found.each(work, parts, least=least, lost=lost)


def at_once_on(executor: Executor, workers: int) -> int:
    """Return how many jobs may wait; a cluster's workers come and go."""
    if isinstance(executor, SerialExecutor):
        return 1
    return _WAITING * max(1, getattr(executor, "workers", workers))
