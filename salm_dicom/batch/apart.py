"""Apart: the process beside a Dask worker that does its jobs, and nothing else.

In the worker itself a job would share an interpreter with Dask's event loop, and would end the
worker when it ends its process. Jobs and answers travel as bytes that the worker does not open.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from salm_dicom.batch.answers import answer_to
from salm_dicom.batch.engines import be_worker

# So many processes may die of one job before it is given up; `bounds.begun` allows fewer.
_TRIES = 5


class Apart:
    """A process that does one job at a time; started when needed, and anew when it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A process ends with the thread that started it (`die_with_parent`): with one that stays.
        self._starter = ThreadPoolExecutor(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Connection[Any, Any] | None = None

    def start(self) -> None:
        """Start it, and do not wait until it has imported what jobs need."""
        with self._lock:
            self._running()

    def do(self, sandbox: bool, work: bytes) -> bytes:
        """Return the pickled `Answer` to a pickled job, which is called without arguments.

        A job whose process dies is begun again in a new one. Nothing is returned for one that
        none survives.

        Parameters
        ----------
        sandbox
            Whether compressed files are decoded in yet another process.
        """
        with self._lock:  # memory is one volume, however many threads ask
            for _ in range(_TRIES):
                link = self._running()
                try:
                    link.send((sandbox, work))
                    return link.recv_bytes()
                except (EOFError, OSError):
                    self._end()
        return b""

    def _running(self) -> Connection[Any, Any]:
        if self._link is None:
            self._process, self._link = self._starter.submit(_started).result()
        return self._link

    def _end(self) -> None:
        link, process = self._link, self._process
        self._link = self._process = None
        if link is not None and process is not None:
            link.close()
            process.kill()
            process.wait()


def _started() -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    here, there = Pipe()
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from {__name__} import serve; serve({there.fileno()})"
    )
    command = [sys.executable, "-c", code]
    with there:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[there.fileno()])
    return process, here


APART = Apart()


def dask_setup(worker: object) -> None:
    """Start the process as the worker starts: what `dask worker --preload` of this module does."""
    APART.start()


def serve(descriptor: int) -> None:
    """Be the process, until the worker is gone, however it was killed."""
    be_worker()
    link = Connection(descriptor)
    jobs: queue.SimpleQueue[tuple[bool, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, jobs), daemon=True).start()
    from salm_dicom.batch import job, source  # noqa: F401  # what any job needs
    from salm_dicom.dicom.sandbox import use_sandbox

    gc.freeze()
    while True:
        sandbox, work = jobs.get()
        use_sandbox(sandbox)
        link.send_bytes(answer_to(partial(_done, work)))


def _listen(link: Connection[Any, Any], jobs: queue.SimpleQueue[tuple[bool, bytes]]) -> None:
    """Take in jobs; end this process, whatever it is at, when nobody can send any more."""
    with suppress(EOFError, OSError):
        while True:
            jobs.put(link.recv())
    os._exit(1)


def _done(work: bytes) -> Any:
    job: Callable[[], Any] = pickle.loads(work)
    return job()
