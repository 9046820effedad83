"""Nursery: the process that local workers are forked from, as a copy of this one."""

from __future__ import annotations

import gc
import os
import socket
import sys
from multiprocessing import connection, forkserver, resource_tracker, util
from typing import Any, NoReturn

from salm_dicom.crew import CAN_COPY, interrupts_wait

# From 3.14 on the server is given a key as well, and these names may have changed.
_CAN_COPY = CAN_COPY and sys.version_info < (3, 14)
_THREADS = "/proc/self/task"


def open_nursery() -> bool:
    """Make a copy of this process the server that `multiprocessing` forks workers from.

    It has imported what this process has, so that workers start at once, and knows nothing of what
    this process opens later. Return False where that cannot be: on other systems, beside any other
    thread, of Python or not, which a copy would lack and might wait for, and where a server runs
    already.
    """
    server: Any = forkserver._forkserver
    if not _CAN_COPY or server._forkserver_pid is not None or len(os.listdir(_THREADS)) > 1:
        return False
    resource_tracker.ensure_running()
    address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        if not util.is_abstract_socket_namespace(address):
            os.chmod(address, 0o600)
        listener.listen()
        ended, alive = os.pipe()
        with interrupts_wait():
            process = os.fork()
            if not process:
                os.close(alive)
                _serve(listener.fileno(), ended)
        os.close(ended)
    server._forkserver_address = address
    server._forkserver_alive_fd = alive
    server._forkserver_pid = process
    return True


def _serve(listener: int, ended: int) -> NoReturn:
    """Be the server, until all who could ask it for a worker are gone."""
    try:
        gc.freeze()  # to look at what the other made would copy it
        forkserver.main(listener, ended, [])
    finally:
        os._exit(0)
