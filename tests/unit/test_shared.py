"""Shared memory: what a copy writes is seen, whatever pages it lies in, and none of it stays."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from salm_dicom.crew import Crew
from salm_dicom.shared import BLOCK, settle, shared

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux only")
SLICES, SIDE = 20, 512


def mapped() -> int:
    """Return the bytes of memory that this process shares with its copies."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    places = (line.split()[0].split("-") for line in lines if "/dev/zero" in line)
    return sum(int(stop, 16) - int(start, 16) for start, stop in places)


def test_arrays_are_of_zeros_and_begin_where_a_large_page_can():
    for shape, kind in (((3, 5), np.float64), ((0, 4), bool), ((SLICES, SIDE, SIDE), np.int16)):
        array = shared(shape, np.dtype(kind))
        assert array.shape == shape
        assert array.dtype == kind
        assert not array.any()
        assert array.ctypes.data % BLOCK == 0


def test_the_memory_goes_with_the_last_view_of_the_array():
    before = mapped()
    array = shared((SLICES, SIDE, SIDE), np.dtype(np.int16))
    view = array[3]
    del array
    assert mapped() - before >= SLICES * SIDE**2 * 2
    view[:] = 1
    del view
    assert mapped() == before


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_is_settled_keeps_what_all_processes_wrote(workers):
    """Slices are a quarter of a large page, so that every page has several writers."""
    crew = Crew(workers)
    array = crew.empty((SLICES, SIDE, SIDE), np.int16)

    def write(index: int) -> int:
        time.sleep(0.02)  # so that everybody gets some
        array[index, 0] = index + 1  # before its page becomes a large one
        crew.ready(array[index])
        array[index, 1:] = index + 1
        return os.getpid()

    who = crew.map(write, range(SLICES))
    assert len(set(who)) == workers
    assert (array == np.arange(1, SLICES + 1)[:, None, None]).all()


def test_a_part_settles_only_pages_that_begin_in_it(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(
        "salm_dicom.shared._system",
        lambda: type("System", (), {"madvise": lambda self, start, *_: asked.append(start)})(),
    )
    room = np.zeros(3 * BLOCK, np.uint8)
    first = -room.ctypes.data % BLOCK
    settle(room[first + 1 : first + BLOCK])
    assert asked == []
    settle(room[first : first + BLOCK + 1])
    assert asked == [room.ctypes.data + first, room.ctypes.data + first + BLOCK]
