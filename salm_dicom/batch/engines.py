"""ENGINES: who runs the jobs. Each is a `concurrent.futures.Executor`; same jobs, same bytes."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any, ParamSpec, TypeVar

from salm_dicom.batch.nursery import open_nursery
from salm_dicom.crew import die_with_parent, interrupts_wait
from salm_dicom.errors import PlanError

Work = Callable[..., Any]
P = ParamSpec("P")
T = TypeVar("T")

_WORK = ("salm_dicom.batch.job", "salm_dicom.batch.source")
_TORCH_WORK = ("salm_dicom.protector.rounds", "monai.networks.nets.resnet")
# glibc malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# How often a pool that ends looks whether one of its workers was killed.
_LOOK_S = 0.5
_UNKNOWN = "an engine is local, serial, or dask://HOST:PORT"
# Forked workers, for what needs no torch.
COPIES = "copies"
# What a job's future raises when the processes that should do it are gone.
LOST = (BrokenExecutor, EOFError, ConnectionError)


class SerialExecutor(Executor):
    """Runs each job at once, in this process."""

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the job and return its finished future; KeyboardInterrupt goes through."""
        future: Future[T] = Future()
        try:
            future.set_result(job(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _serial(workers: int, address: str, handed: Work | None) -> Executor:
    keep_memory()
    return SerialExecutor()


class LocalExecutor(ProcessPoolExecutor):
    """A pool whose end is not held up by a worker that was killed while the pool ended.

    An idle worker waits with the lock of the queue in its hand. One that is killed then, when
    nobody looks after workers any more, leaves the others waiting for that lock forever.
    """

    def __init__(self, workers: int, context: BaseContext, handed: Work | None) -> None:
        from salm_dicom.dicom.sandbox import is_sandboxed

        told = is_sandboxed(), handed
        super().__init__(workers, mp_context=context, initializer=_prepare_worker, initargs=told)
        self._handed = handed

    def submit(self, job: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the job in a worker; what workers have already is not sent again."""
        with interrupts_wait():  # workers may be forked now
            if job is self._handed:
                return super().submit(_do_handed, *args, **kwargs)
            return super().submit(job, *args, **kwargs)

    def kill(self) -> None:
        """End the workers, whatever they are at."""
        for one in [*(self._processes or {}).values()]:
            one.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the pool; with `wait`, after the jobs that are under way."""
        manager: Any = self._executor_manager_thread  # a thread; typeshed says otherwise
        workers = [*(self._processes or {}).values()]
        super().shutdown(wait=False, cancel_futures=cancel_futures)
        while wait and manager is not None and manager.is_alive():
            manager.join(_LOOK_S)
            if not self._pending_work_items and any(one.exitcode for one in workers):
                for one in workers:
                    one.kill()


def _local(workers: int, address: str, handed: Work | None) -> Executor:
    """Return a pool of processes.

    They are forked from a clean process that has imported what a job needs, once for all of them
    and for those that replace a worker that died.
    """
    _preload(_WORK)
    return LocalExecutor(workers, multiprocessing.get_context("forkserver"), handed)


def _copies(workers: int, address: str, handed: Work | None) -> Executor:
    """Return a pool of copies of this process, which import nothing anew and start at once.

    For work without torch, whose threads do not live on in a copy.
    """
    return LocalExecutor(workers, multiprocessing.get_context("fork"), handed)


def _warm_local(address: str, modules: tuple[str, ...]) -> None:
    """Start the process that the pool is forked from: as a copy of this one, or importing anew."""
    if not (sys.modules.keys() >= {*modules} and open_nursery()):
        _preload(modules)


def _preload(modules: tuple[str, ...]) -> None:
    """Have the process import modules that the pool is forked from, if none runs yet."""
    multiprocessing.set_forkserver_preload(list(modules))
    forkserver.ensure_running()


def _dask(workers: int, address: str, handed: Work | None) -> Executor:
    from salm_dicom.batch.cluster import connect  # with Dask, an extra

    return connect(address)


def _warm_cluster(address: str, modules: tuple[str, ...]) -> None:
    from salm_dicom.batch.cluster import connect

    with connect(address) as executor:
        executor.warm_up(modules)


_handed: Work | None = None


def _do_handed(*args: Any, **kwargs: Any) -> Any:
    assert _handed is not None
    return _handed(*args, **kwargs)


def _prepare_worker(sandbox: bool, handed: Work | None) -> None:
    global _handed
    _handed = handed
    from salm_dicom.dicom.sandbox import use_sandbox

    be_worker()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    use_sandbox(sandbox)


def be_worker() -> None:
    """Make this process one that does jobs for another, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    die_with_parent()
    keep_memory()


def _leave_with_parent() -> None:
    """End this worker when the process that gives it work is gone, however that was killed.

    Where the kernel can, also when the one is gone that it was forked from: without that nobody
    would learn how it ends.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the next series: fresh pages cost more than the work."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Where jobs are run.

    Parameters
    ----------
    has_address
        Whether its name is followed by `://HOST:PORT`.
    is_offered
        Whether a user can ask for it.
    start
        Returns the executor of so many workers, or of those at an address.
    warm_up
        Has the workers at an address begin to import modules, and does not wait for it.
    """

    has_address: bool = False
    is_offered: bool = True
    start: Callable[[int, str, Work | None], Executor]
    warm_up: Callable[[str, tuple[str, ...]], None] = lambda address, modules: None


ENGINES: dict[str, Engine] = {
    "serial": Engine(start=_serial),
    "local": Engine(start=_local, warm_up=_warm_local),
    COPIES: Engine(start=_copies, is_offered=False),
    "dask": Engine(start=_dask, warm_up=_warm_cluster, has_address=True),
}


def start(engine: str, workers: int, handed: Work | None = None) -> Executor:
    """Start what `--engine` names: `serial`, `local` with so many workers, or `dask://HOST:PORT`.

    Parameters
    ----------
    engine
        Also `COPIES`, where `CAN_COPY`, which nobody can ask for on the command line.
    handed
        A job that local workers get when they start, and keep with what it finds out.

    Raises
    ------
    PlanError
        There is no such engine, or it cannot be reached.
    """
    row, address = _named(engine)
    return row.start(workers, address, handed)


def warm_up(engine: str = "local", *, with_torch: bool = False) -> None:
    """Begin to import what workers need, in processes beside this one.

    For a caller that has something else to do before it needs an engine. Where this process has
    imported all of it, local workers are ready at once.

    Parameters
    ----------
    with_torch
        Also what methods with a surrogate need; workers without it import that when they do.

    Raises
    ------
    PlanError
        As `start`.
    """
    row, address = _named(engine)
    row.warm_up(address, (*_WORK, *(_TORCH_WORK if with_torch else ())))


def check(engine: str) -> None:
    """Raise `PlanError` when a user cannot ask for such an engine, or when no scheduler answers."""
    row, address = _named(engine)
    if not row.is_offered:
        raise PlanError(_UNKNOWN)
    if row.has_address:
        row.start(0, address, None).shutdown()


def _named(engine: str) -> tuple[Engine, str]:
    """Return an engine and its address."""
    name, _, address = engine.partition("://")
    row = ENGINES.get(name)
    if row is None or not (address if row.has_address else name == engine):
        raise PlanError(_UNKNOWN)
    return row, address
