"""Dask: the jobs of a run on the machines of a cluster, as a `concurrent.futures.Executor`.

Dask runs a job again whose worker died; `bounds.begun` counts how often. Jobs travel as bytes that
only a worker opens: a scheduler that did would first import all that a job needs.
"""

from __future__ import annotations

import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from salm_dicom import __version__
from salm_dicom.errors import PlanError

if TYPE_CHECKING:
    from distributed import Client

P = ParamSpec("P")
T = TypeVar("T")
# A scheduler answers within this time, or it is not there.
_PATIENCE_S = 15
# One series at a time in a process, however many threads a worker has: memory is one volume.
_ALONE = threading.Lock()


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
        """Have every worker import what it will need, and do not wait for it."""
        from distributed import fire_and_forget

        for worker in self._client.nthreads():
            fire_and_forget(self._client.submit(_import, modules, workers=[worker], pure=False))

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Send a job to the scheduler."""
        future: Future[T] = Future()
        work = pickle.dumps(partial(job, *args, **kwargs))
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
    """Give what came of a job to the future that waits for it; a lost one breaks the engine."""
    from distributed import KilledWorker

    if done.cancelled():
        future.set_exception(BrokenExecutor("the scheduler is gone"))
    elif isinstance(error := done.exception(), KilledWorker):
        future.set_exception(BrokenExecutor("its workers died"))
    elif error is not None:
        future.set_exception(error)
    elif isinstance(found := done.result(), Refused):
        future.set_exception(PlanError(found.reason))
    else:
        future.set_result(found)


def on_worker(version: str, sandbox: bool, work: bytes) -> Any:
    """Do in the process of a worker what was submitted, or say why not with a `Refused`."""
    if version != __version__:
        return Refused(f"a Dask worker has salm_dicom {__version__}; {version} is needed")
    _prepare(sandbox)
    return alone(pickle.loads(work))


def alone(job: partial[T]) -> T | Refused:
    """Do one job at a time; `places` of its last argument are what it needs."""
    if not all(place.exists() for place in job.args[-1].places):
        return Refused(
            "a Dask worker does not see SOURCE, OUT or the vault; they must lie under the same "
            "paths on every machine"
        )
    with _ALONE:
        return job()


def _import(modules: tuple[str, ...]) -> None:
    for name in modules:
        import_module(name)


@cache
def _prepare(sandbox: bool) -> None:
    """Make the process of a worker what those of the local engine are."""
    from salm_dicom.batch.engines import keep_memory
    from salm_dicom.dicom.sandbox import use_sandbox

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    keep_memory()
    use_sandbox(sandbox)
