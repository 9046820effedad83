"""Nursery: workers start as copies of a process that has imported all, and nobody stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from salm_dicom.batch import nursery

pytestmark = pytest.mark.skipif(not nursery._CAN_COPY, reason="no copies on this system or Python")

# A driver as the command line is one: it imports what jobs need, and then opens something.
DRIVER = """
import os, signal, sys, threading, time
from concurrent.futures import BrokenExecutor
from pathlib import Path

def who(_=None):
    names = ("salm_dicom.batch.job", "salm_dicom.batch.source")
    opened = {os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")}
    return os.getpid(), os.getppid(), all(n in sys.modules for n in names), opened

def die(_=None):
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    import salm_dicom.cli.main
    import salm_dicom.batch.job, salm_dicom.batch.source
    from multiprocessing import forkserver
    from salm_dicom.batch.engines import start, warm_up
    from salm_dicom.batch.nursery import open_nursery
"""


def driven(rest: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a driver to its end."""
    script = folder / "driver.py"
    script.write_text(DRIVER + "".join(f"    {line}\n" for line in rest.strip().splitlines()))
    return subprocess.run(
        [sys.executable, script], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_workers_are_copies_of_the_driver_and_see_nothing_of_what_it_opens_later(tmp_path):
    ended = driven(
        """
warm_up()
secret = open("secret.txt", "w")
nursery = forkserver._forkserver._forkserver_pid
with start("local", 2) as pool:
    for pid, parent, imported, opened in pool.map(who, range(4)):
        assert parent == nursery not in (None, os.getpid()), (parent, nursery)
        assert imported
        assert os.path.realpath("secret.txt") not in opened
print("well")
""",
        tmp_path,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("well\n", "", 0)


def test_a_worker_that_dies_is_replaced_from_the_same_nursery(tmp_path):
    ended = driven(
        """
warm_up()
parents = set()
for turn in range(3):
    with start("local", 2) as pool:
        parents |= {parent for _, parent, _, _ in pool.map(who, range(4))}
        try:
            pool.submit(die).result()
        except BrokenExecutor:
            continue
    raise SystemExit("nobody died")
assert parents == {forkserver._forkserver._forkserver_pid}
print("well")
""",
        tmp_path,
    )
    assert (ended.stdout, ended.returncode) == ("well\n", 0), ended.stderr


def test_beside_a_thread_and_beside_a_server_there_is_none(tmp_path):
    ended = driven(
        """
wait = threading.Event()
thread = threading.Thread(target=wait.wait)
thread.start()
assert not open_nursery()
wait.set()
thread.join()
while len(os.listdir("/proc/self/task")) > 1:  # a joined thread may still be on its way out
    time.sleep(0.01)
assert open_nursery()
assert not open_nursery()
print("well")
""",
        tmp_path,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("well\n", "", 0)


def test_beside_a_thread_that_python_does_not_know_there_is_none(tmp_path):
    ended = driven(
        """
import torch
torch.set_num_threads(2)
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
assert threading.active_count() == 1
assert len(os.listdir("/proc/self/task")) > 1
assert not open_nursery()
warm_up()
with start("local", 1) as pool:
    assert pool.submit(who).result()[2]
print("well")
""",
        tmp_path,
    )
    assert (ended.stdout, ended.returncode) == ("well\n", 0), ended.stderr


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_the_nursery_goes_with_the_driver(how, tmp_path):
    kill = "os.kill(os.getpid(), signal.SIGKILL)" if how == "is killed" else ""
    ended = driven(
        f"""
warm_up()
pool = start("local", 2)
seen = {{pid for pid, *_ in pool.map(who, range(8))}}
print(*seen, forkserver._forkserver._forkserver_pid, flush=True)
{kill}
""",
        tmp_path,
    )
    assert ended.returncode == (-signal.SIGKILL if how == "is killed" else 0), ended.stderr
    pids = ended.stdout.split()
    assert len(pids) >= 2
    until = time.monotonic() + 10
    while any(map(is_there, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in pids if is_there(pid)]


def is_there(pid: str) -> bool:
    """Return whether a process runs, which one that nobody waited for does not."""
    try:
        os.kill(int(pid), 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_what_is_not_imported_here_is_imported_there(tmp_path):
    ended = driven(
        """
warm_up(with_torch=True)
assert "torch" not in sys.modules
with start("local", 1) as pool:
    assert pool.submit(who).result()[2]
print("well")
""",
        tmp_path,
    )
    assert (ended.stdout, ended.returncode) == ("well\n", 0), ended.stderr
