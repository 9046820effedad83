"""Run jobs on an engine: a bounded queue, and a new pool when a worker dies."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from heapq import nlargest

from salm_dicom.batch.bounds import begun, in_time, times_begun, was_late
from salm_dicom.batch.engines import LOST, start
from salm_dicom.batch.job import CRASHES, NO_SPACE, J, Outcome, Work, crashed, late
from salm_dicom.batch.ledger import Ledger, Table
from salm_dicom.batch.pool import Queue, at_once_on
from salm_dicom.batch.vault import Vault
from salm_dicom.errors import DiskFull, PlanError

_OBJECTS_WORTH_A_WORKER = 200
# Where there are no workers, who waits for one is told so every minute.
_PATIENCE_S = 60
# After workers that did not begin a job, so that what ended them is over once others are started.
_PAUSE_S = 0.5
_NO_WORKERS = (
    "worker processes end before they begin a series; what was done is kept. --jobs 1 works in "
    "this process (`salm-dicom doctor` looks at the installation; a Python script that calls "
    "`protect` needs `if __name__ == '__main__':`)"
)


def run(
    jobs: Iterable[J],
    total: int,
    work: Callable[[J], Outcome],
    workers: int,
    engine: str,
    ledger: Ledger,
    table: Table,
    progress: Callable[[str, int, int], None],
    max_memory: int = 0,
) -> list[str]:
    """Run the jobs, `total` of them, and note each outcome in the ledger.

    Returns frames for the log file.

    Raises
    ------
    DiskFull, PlanError
    """
    log: list[str] = []
    what = {"series": "protect", "objects": "copy"}[table]
    if table == "objects":  # a copy takes milliseconds, a new worker seconds
        workers = min(workers, 1 + total // _OBJECTS_WORTH_A_WORKER)
    progress(what, 0, total)
    count = 0

    def idle() -> None:
        progress(f"{what}, waiting for a worker to join the cluster", count, total)

    found = outcomes(jobs, min(workers, total), work, engine, max_memory, idle)
    for count, outcome in enumerate(found, start=1):
        ledger.finish(
            outcome.source,
            record=outcome.record,
            code=outcome.code,
            reason=outcome.reason,
            table=table,
        )
        if outcome.frames:
            log.append(f"{outcome.name}: {outcome.frames}")
        progress(what, count, total)
        if outcome.code == NO_SPACE:
            raise DiskFull(
                f"no space left after {count - 1} of {total} {table}; they are kept. "
                "Make room and run the same command again"
            )
    return log


def outcomes(
    jobs: Iterable[J],
    workers: int,
    work: Callable[[J], Outcome],
    engine: str = "local",
    max_memory: int = 0,
    idle: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Run the jobs and yield what came of each, in any order.

    With `max_memory` a job waits until those that can run beside it leave so many bytes for it.

    A worker that dies breaks its pool. A new pool first goes on with what was under way, one job
    at a time, so that a series which kills its worker again stands alone; after three times it is
    left out with `E_CRASH`. A job that only waited is not to blame.

    Parameters
    ----------
    idle
        Called every minute in which there are no workers, as a cluster may have none.

    Raises
    ------
    PlanError
        No worker lives long enough to begin a job, or the engine is gone.
    """
    todo, crashes, stillborn = Queue(jobs), Counter[str](), 0
    if engine == "local" and workers < 2 and not (todo and todo.first().bounds.seconds):
        engine = "serial"  # what is too late is ended with its process, so that is another one
    while todo:
        with start(engine, workers) as executor:
            waiting: dict[Future[Outcome], J] = {}
            try:
                while todo or waiting:
                    at_once = 1 if crashes else at_once_on(executor, workers)
                    while todo and len(waiting) < at_once:
                        if not _fits(todo.first(), waiting.values(), workers, max_memory):
                            break
                        waiting[executor.submit(_held, work, todo.first())] = todo.first()
                        todo.pop()
                    done = wait(waiting, _PATIENCE_S, return_when=FIRST_COMPLETED).done
                    if not done and not getattr(executor, "workers", workers):
                        idle()
                    # what is done counts before the engine is found to be lost
                    for future in sorted(done, key=lambda one: one.exception() is not None):
                        outcome = future.result()
                        crashes.pop(waiting.pop(future).source, None)
                        stillborn = 0
                        yield outcome
            except LOST:
                executor.shutdown(wait=True, cancel_futures=True)  # nobody writes any more
                before = crashes.total()
                for job in reversed(waiting.values()):
                    _remove(job)
                    if times := times_begun(job):
                        crashes[job.source] = times
                    if times < CRASHES:
                        todo.put_back(job)
                stillborn = 0 if crashes.total() > before else stillborn + 1
                if stillborn >= CRASHES:
                    raise PlanError(_NO_WORKERS) from None
                time.sleep(stillborn * _PAUSE_S)
                for job in waiting.values():
                    if crashes[job.source] >= CRASHES:
                        del crashes[job.source]
                        yield crashed(job)
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                raise


def _fits(job: Work, waiting: Collection[Work], workers: int, max_memory: int) -> bool:
    """Return whether a job may join those that wait: whichever run at once, memory suffices."""
    if not (max_memory and waiting):
        return True
    needs = [job.bounds.memory, *(one.bounds.memory for one in waiting)]
    return sum(nlargest(max(workers, 1), needs)) <= max_memory


def _held(work: Callable[[J], Outcome], job: J) -> Outcome:
    """Do a job within its time, after removing what a killed process left of it.

    A series that kills its processes is left out after three of them, also where the engine does
    such a job again by itself.
    """
    with Vault(job.vault).working(), begun(job) as times:
        _remove(job)
        if (where := was_late(job)) is not None:
            return late(job, where)
        if times >= CRASHES:
            return crashed(job)
        with in_time(job):
            return work(job)


def _remove(job: Work) -> None:
    """Remove what a worker left behind that died, also when it was done but could not say so."""
    place = job.output / job.name
    for left in (place, place.with_name(f"{place.name}.partial")):
        shutil.rmtree(left, ignore_errors=True)
        if not left.is_dir():
            left.unlink(missing_ok=True)
