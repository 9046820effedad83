"""ENGINES: who runs the jobs. Each is a `concurrent.futures.Executor`; same jobs, same bytes."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# glibc malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


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


def _serial(workers: int) -> Executor:
    keep_memory()
    return SerialExecutor()


def _local(workers: int) -> Executor:
    """Return a pool of spawned processes, each with one torch thread."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)


def _prepare_worker() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_memory()


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the next series: fresh pages cost more than the work."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


ENGINES: dict[str, Callable[[int], Executor]] = {"serial": _serial, "local": _local}
