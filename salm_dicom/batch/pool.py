"""Work that is handed out in parts and comes back in order, by workers that stay for all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from itertools import islice
from typing import Generic, TypeVar

from salm_dicom.batch.engines import LOST, LocalExecutor, SerialExecutor, start
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
    engine, workers, handed
        As for `engines.start`.
    """

    def __init__(
        self, engine: str, workers: int, handed: Callable[..., object] | None = None
    ) -> None:
        self._engine = "serial" if workers < 2 and engine == "local" else engine
        self._workers = workers
        self._handed = handed
        self._executor: Executor | None = None

    def each(
        self,
        work: Callable[[T], R],
        parts: Iterable[T],
        *,
        least: int = _WORTH_A_WORKER,
        lost: Callable[[T], R] | None = None,
    ) -> Iterator[R]:
        """Yield what `work` makes of each part, in order; a few are under way at a time.

        A process that dies costs the time of what it was at. Then one part is under way at a time,
        until those are done that were.

        Parameters
        ----------
        least
            Fewer parts are done here, where no process must be started for them.
        lost
            What is yielded for the part at which a third process in a row died; None: this process
            goes on alone from there.
        """
        todo, deaths, alone = Queue(parts), 0, 0
        if self._executor is None and not todo.has(least):
            while todo:
                yield work(todo.first())
                todo.pop()
        while todo:
            waiting: deque[tuple[Future[R], T]] = deque()
            executor = self._executor = self._executor or self._started()
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
                deaths, alone = deaths + 1, max(alone, len(waiting))
                if deaths < CRASHES:
                    continue
                deaths = 0
                if lost is None:
                    self._engine = "serial"
                else:
                    yield lost(todo.first())
                    todo.pop()

    def _started(self) -> Executor:
        return start(self._engine, self._workers, self._handed)

    def kill(self) -> None:
        """End the engine's local workers, whatever they are at."""
        if isinstance(self._executor, LocalExecutor):
            self._executor.kill()

    def end(self) -> None:
        """End the engine, after what is under way."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


@contextmanager
def pool(engine: str, workers: int, handed: Callable[..., object] | None = None) -> Iterator[Pool]:
    """Give a pool that is ended with the context."""
    found = Pool(engine, workers, handed)
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
    """Yield what `work` makes of each part, in order, with a pool of its own; see `Pool.each`.

    Who stops asking ends what is under way.
    """
    with pool(engine, workers, work) as found:
        try:
            yield from found.each(work, parts, least=least, lost=lost)
        except BaseException:
            found.kill()
            raise


def at_once_on(executor: Executor, workers: int) -> int:
    """Return how many jobs may wait; a cluster's workers come and go."""
    if isinstance(executor, SerialExecutor):
        return 1
    return _WAITING * max(1, getattr(executor, "workers", workers))
