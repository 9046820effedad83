"""Dask: the jobs of a run on the machines of a cluster, as a `concurrent.futures.Executor`.

Dask runs a job again whose worker died; `bounds.begun` counts how often. Jobs travel as bytes that
only the process beside a worker opens (`apart`): who does must import all that a job needs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from salm_dicom import __version__
from salm_dicom.batch.answers import Answer
from salm_dicom.batch.apart import APART
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from distributed import Client

P = ParamSpec("P")
T = TypeVar("T")
# A scheduler answers within this time, or it is not there.
_PATIENCE_S = 15


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a worker cannot do any job of this run; returned, as Dask logs what is raised."""

    reason: str


class ClusterExecutor(Executor):
    """Jobs on the workers of a Dask scheduler; `workers` is how many there are now."""

    def __init__(self, client: Client, *, sandbox: bool) -> None:
        self._client, self._sandbox = client, sandbox
        self._executor = client.get_executor(pure=False)

    @property
    def workers(self) -> int:
        """How many workers the scheduler has; it may have none yet, and get some later."""
        with suppress(OSError):  # a scheduler that is gone shows in the futures
            return len(self._client.nthreads())
        return 0

    def warm_up(self, modules: tuple[str, ...]) -> None:
        """Have every worker import what its jobs will need, and do not wait for it."""
        from distributed import fire_and_forget

        work = pickle.dumps(partial(_import, modules))
        for worker in self._client.nthreads():
            sent = self._client.submit(
                on_worker, __version__, self._sandbox, work, workers=[worker], pure=False
            )
            fire_and_forget(sent)

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a job to the scheduler."""
        future: Future[T] = Future()
        work = pickle.dumps(partial(_seen, partial(job, *args, **kwargs)))
        sent = self._executor.submit(on_worker, __version__, self._sandbox, work)
        sent.add_done_callback(lambda done: _hand_over(done, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the scheduler; what a worker is at then, it finishes, and nobody waits for it."""
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()


def connect(address: str) -> ClusterExecutor:
    """Return the engine of the scheduler at HOST:PORT.

    Raises
    ------
    PlanError
        The extra `dask` is not installed, or nobody answers there.
    """
    from salm_dicom.dicom.sandbox import is_sandboxed

    try:
        from distributed import Client
    except ImportError as error:
        raise PlanError(
            "--engine dask://... needs Dask: pip install 'salm_dicom[dask]', here and on every "
            "worker"
        ) from error
    try:
        client = Client(address, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise PlanError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}); start one with "
            "`dask scheduler`, workers with `dask worker HOST:PORT --nthreads 1`, and give its "
            "address as dask://HOST:PORT"
        ) from error
    return ClusterExecutor(client, sandbox=is_sandboxed())


def _hand_over(done: Future[Any], future: Future[Any]) -> None:
    """Give what came of a job to the future that waits for it, whatever it is."""
    try:
        future.set_result(_result(done))
    except BaseException as error:
        future.set_exception(error)


def _result(done: Future[Any]) -> Any:
    """Return what a job gave, or raise what it raised; a lost one breaks the engine."""
    from distributed import KilledWorker

    if done.cancelled():
        raise BrokenExecutor("the scheduler is gone")
    try:
        found = done.result()
    except KilledWorker:
        raise BrokenExecutor("its workers died") from None
    if not found:
        raise BrokenExecutor("its processes died")
    answer: Answer = Answer(found) if isinstance(found, Refused) else pickle.loads(found)
    value = answer.given()
    if isinstance(value, Refused):
        raise PlanError(value.reason)
    return value


def on_worker(version: str, sandbox: bool, work: bytes) -> bytes | Refused:
    """Have what was submitted done beside a worker; return its pickled `Answer`, or why not."""
    if version != __version__:
        return Refused(f"a Dask worker has salm_dicom {__version__}; {version} is needed")
    return APART.do(sandbox, work)


def _seen(job: partial[T]) -> T | Refused:
    """Do a job where `places` of its last argument, which it needs, are seen."""
    if not all(place.exists() for place in job.args[-1].places):
        return Refused(
            "a Dask worker does not see SOURCE, OUT or the vault; they must lie under the same "
            "paths on every machine"
        )
    return job()


def _import(modules: tuple[str, ...]) -> None:
    for name in modules:
        import_module(name)
