"""Run jobs on an engine: a bounded queue, and a new pool when a worker dies."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool

from salm_dicom.batch.engines import ENGINES
from salm_dicom.batch.job import NO_SPACE, J, Outcome, Work
from salm_dicom.batch.ledger import Ledger, Table
from salm_dicom.batch.vault import Vault
from salm_dicom.errors import DiskFull, WorkerCrashed

# Jobs that may wait for each worker; an export of a million series does not sit in memory.
_WAITING = 3
_OBJECTS_WORTH_A_WORKER = 200
# So often may a series be under way when its worker dies.
_CRASHES = 3


def run(
    jobs: Sequence[J],
    work: Callable[[J], Outcome],
    workers: int,
    ledger: Ledger,
    table: Table,
    progress: Callable[[str, int, int], None],
) -> list[str]:
    """Run the jobs and note each outcome in the ledger; return frames for the log file.

    Raises
    ------
    DiskFull
    """
    log: list[str] = []
    what = {"series": "protect", "objects": "copy"}[table]
    if table == "objects":  # a copy takes milliseconds, a new worker seconds
        workers = min(workers, 1 + len(jobs) // _OBJECTS_WORTH_A_WORKER)
    progress(what, 0, len(jobs))
    for count, outcome in enumerate(outcomes(jobs, workers, work), start=1):
        ledger.finish(
            outcome.source,
            record=outcome.record,
            code=outcome.code,
            reason=outcome.reason,
            table=table,
        )
        if outcome.frames:
            log.append(f"{outcome.name}: {outcome.frames}")
        progress(what, count, len(jobs))
        if outcome.code == NO_SPACE:
            raise DiskFull(
                f"no space left after {count - 1} of {len(jobs)} {table}; they are kept. "
                "Make room and run the same command again"
            )
    return log


def outcomes(jobs: Sequence[J], workers: int, work: Callable[[J], Outcome]) -> Iterator[Outcome]:
    """Run the jobs and yield what came of each, in any order.

    A worker that dies breaks its pool. A new pool first goes on with what was under way, one job
    at a time, so that a series which kills its worker again stands alone; after three times it is
    left out with `E_CRASH`.
    """
    engine = "local" if workers > 1 and len(jobs) > 1 else "serial"
    todo, crashes, stillborn = deque(jobs), Counter[str](), 0
    while todo:
        with ENGINES[engine](min(workers, len(todo))) as executor:
            waiting: dict[Future[Outcome], J] = {}
            try:
                while todo or waiting:
                    at_once = 1 if crashes or engine == "serial" else _WAITING * workers
                    while todo and len(waiting) < at_once:
                        waiting[executor.submit(_held, work, todo[0])] = todo[0]
                        todo.popleft()
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        outcome = future.result()
                        crashes.pop(waiting.pop(future).source, None)
                        yield outcome
            except (BrokenProcessPool, EOFError, ConnectionError):
                executor.shutdown(wait=True, cancel_futures=True)  # nobody writes any more
                stillborn += not waiting
                if stillborn >= _CRASHES:
                    raise
                for job in waiting.values():
                    _remove(job)
                    crashes[job.source] += 1
                    if crashes[job.source] < _CRASHES:
                        todo.appendleft(job)
                    else:
                        del crashes[job.source]
                        yield _crashed(job)
            except BaseException:
                executor.shutdown(wait=True, cancel_futures=True)
                raise


def _held(work: Callable[[J], Outcome], job: J) -> Outcome:
    with Vault(job.vault).working():
        return work(job)


def _crashed(job: Work) -> Outcome:
    """Return the outcome of a series that killed its worker."""
    reason = f"the process that worked on it died {_CRASHES} times (out of memory?)"
    return Outcome(source=job.source, name=job.name, code=WorkerCrashed.code, reason=reason)


def _remove(job: Work) -> None:
    """Remove what a worker left behind that died, also when it was done but could not say so."""
    place = job.output / job.name
    for left in (place, place.with_name(f"{place.name}.partial")):
        shutil.rmtree(left, ignore_errors=True)
        if not left.is_dir():
            left.unlink(missing_ok=True)
