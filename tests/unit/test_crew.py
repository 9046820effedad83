"""Crew: the same results in the same order, whoever works, and nobody is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salm_dicom.crew import Crew
from salm_dicom.errors import UnevenSpacing


def children() -> set[str]:
    """Return the processes that this one has started and not seen the end of."""
    lists = Path("/proc/self/task").glob("*/children")
    return {pid for one in lists for pid in one.read_text().split()}


@pytest.fixture
def nobody_stays() -> Iterator[None]:
    """Other tests may have left servers of theirs."""
    before = children()
    yield
    assert children() <= before


def meeting(workers: int) -> Callable[[], int]:
    """Return what waits until so many processes wait for one another, and says who this one is."""
    barrier = get_context("fork").Barrier(workers)

    def met() -> int:
        barrier.wait(60)
        return os.getpid()

    return met


@given(items=st.lists(st.integers(), max_size=9), workers=st.integers(1, 5))
def test_what_a_split_gives_does_not_hang_on_how_many_work(items, workers):
    assert Crew(workers).map(lambda item: (item, item**2), items) == [(i, i**2) for i in items]


def test_who_is_held_up_does_less():
    main = os.getpid()

    def work(_: int) -> int:
        time.sleep(0.02 if os.getpid() == main else 0.2)
        return os.getpid()

    who = Crew(2).map(work, range(40))
    assert len(who) == 40
    assert 0 < sum(one != main for one in who) < 20
    assert Crew(1).map(lambda _: os.getpid(), range(3)) == [main] * 3


def test_everybody_takes_part():
    met = meeting(3)
    assert len({*Crew(3).map(lambda _: met(), range(3))}) == 3


def test_more_items_than_turns_are_all_done_once():
    calls = Crew(2).zeros((100_000,), np.uint8)

    def work(item: int) -> int:
        calls[item] += 1
        return item

    assert Crew(2).map(work, range(100_000)) == [*range(100_000)]
    assert (calls == 1).all()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_copies_write_to_arrays_of_the_split(workers):
    crew = Crew(workers)
    values, zeros = crew.empty((8, 3), np.int16), crew.zeros((8, 3), np.float64)

    def fill(index: int) -> None:
        crew.ready(values[index])
        values[index] = index
        zeros[index, 1] += index

    crew.map(fill, range(8))
    assert (values == np.arange(8)[:, None]).all()
    assert np.array_equal(zeros[:, 1], np.arange(8))
    assert not zeros[:, [0, 2]].any()


def test_an_empty_array_can_be_shared():
    assert Crew(2).zeros((0, 4), bool).shape == (0, 4)


def test_both_of_two_are_done_together():
    me = os.getpid()
    met = meeting(2)
    one, other = Crew(2).together(met, met)
    assert one != other
    assert me in (one, other)


@pytest.mark.usefixtures("nobody_stays")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_error_of_the_first_item_is_the_one_that_is_raised(workers):
    def work(item: int) -> None:
        if item in (5, 7):
            raise UnevenSpacing((1.0, float(item)))

    with pytest.raises(UnevenSpacing) as caught:
        Crew(workers).map(work, range(9))
    assert caught.value.gaps_mm == (1.0, 5.0)


def test_after_an_error_nobody_begins_anything_more():
    calls = Crew(2).zeros((400,), np.uint8)

    def work(item: int) -> None:
        calls[item] = 1
        if not item:
            raise UnevenSpacing((1.0,))
        time.sleep(0.01)

    with pytest.raises(UnevenSpacing):
        Crew(2).map(work, range(400))
    assert calls.sum() < 40


def test_an_error_that_cannot_be_sent_is_named():
    class Local(Exception):
        pass

    main, met = os.getpid(), meeting(2)

    def work(item: int) -> None:
        if met() != main:
            raise Local

    with pytest.raises(RuntimeError, match="an unforeseen Local"):
        Crew(2).map(work, range(2))


@pytest.mark.usefixtures("nobody_stays")
def test_a_copy_that_dies_breaks_the_work_and_leaves_no_process():
    main, met = os.getpid(), meeting(3)

    def work(item: int) -> int:
        if met() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    with pytest.raises(BrokenExecutor):
        Crew(3).map(work, range(3))


@pytest.mark.usefixtures("nobody_stays")
def test_an_interrupt_ends_the_copies_whatever_they_are_at():
    main, met, (never, _) = os.getpid(), meeting(2), os.pipe()

    def work(item: int) -> None:
        if met() == main:
            raise KeyboardInterrupt
        os.read(never, 1)

    with pytest.raises(KeyboardInterrupt):
        Crew(2).map(work, range(2))


def test_an_interrupt_is_not_for_copies():
    main, met = os.getpid(), meeting(2)

    def work(item: int) -> int:
        if met() != main:
            os.kill(os.getpid(), signal.SIGINT)
        return item

    assert Crew(2).map(work, range(2)) == [0, 1]
