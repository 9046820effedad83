"""ENGINES: who runs the jobs. Each is a `concurrent.futures.Executor`; same jobs, same bytes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
    return SerialExecutor()


def _local(workers: int) -> Executor:
    """Return a pool of spawned processes, each with one torch thread."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)


def _prepare_worker(*_: Any) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(1)


ENGINES: dict[str, Callable[[int], Executor]] = {"serial": _serial, "local": _local}
