"""--max-memory and --max-seconds-per-file: what is too large or too slow is left out."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from salm_dicom.batch import pool as pool_module
from salm_dicom.batch import run as run_module
from salm_dicom.batch.bounds import Bounds, memory_of
from salm_dicom.batch.engines import SerialExecutor
from salm_dicom.batch.job import Job, Outcome
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.run import outcomes
from salm_dicom.cli.engine_options import bytes_of
from salm_dicom.cli.main import main
from salm_dicom.errors import PlanError
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series

GB = 10**9


def job(folder: Path, name: str, **bounds) -> Job:
    return Job(
        source=name, name=name, paths=(), label=None, protector=folder, output=folder,
        vault=folder, created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"",
        bounds=Bounds(**bounds),
    )  # fmt: skip


def test_workers_that_never_begin_are_started_again_after_pauses_that_grow(tmp_path, monkeypatch):
    pauses: list[float] = []
    started: list[str] = []

    class Lost(SerialExecutor):
        def submit(self, *_: object, **__: object) -> Future[Outcome]:
            raise BrokenExecutor

    @contextmanager
    def start(engine: str, _: int) -> Iterator[Lost]:
        started.append(engine)
        yield Lost()

    monkeypatch.setattr(run_module, "start", start)
    monkeypatch.setattr(run_module.time, "sleep", pauses.append)
    with pytest.raises(PlanError, match="end before they begin a series"):
        list(outcomes([job(tmp_path, "1")], 2, hangs_never, "local"))
    assert (len(started), pauses) == (3, [0.5, 1.0])


def hangs_on_the_second(one: Job) -> Outcome:
    """Hang where no signal and no thread of Python gets through: in C, with the GIL held."""
    if one.name == "2":
        ctypes.PyDLL(None).sleep(600)
    return Outcome(source=one.source, name=one.name, record="{}")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_hangs_is_ended_and_the_others_are_done(tmp_path, workers):
    jobs = [job(tmp_path, str(n), seconds=1.5) for n in range(6)]
    began = time.monotonic()
    found = {o.name: o for o in outcomes(jobs, workers, hangs_on_the_second)}
    assert {name: o.code for name, o in found.items()} == {
        str(n): "E_TIMEOUT" if n == 2 else "" for n in range(6)
    }
    assert "not done after 1.5 seconds" in found["2"].reason
    assert "hangs_on_the_second" in found["2"].frames
    assert "/" not in found["2"].frames
    assert time.monotonic() - began < 60
    assert not list((tmp_path / "begun").iterdir())


def test_a_job_in_time_leaves_nothing_and_its_process_goes_on(tmp_path):
    jobs = [job(tmp_path, str(n), seconds=60) for n in range(3)]
    found = list(outcomes(jobs, 1, hangs_never))
    assert [o.code for o in found] == ["", "", ""]
    assert len({o.record for o in found}) == 1, "one process did all of them"
    assert not list((tmp_path / "begun").iterdir())


def hangs_never(one: Job) -> Outcome:
    return Outcome(source=one.source, name=one.name, record=str(os.getpid()))


class Slow(SerialExecutor):
    """An engine whose jobs end only when they are waited for."""

    workers = 3
    under_way: set[str] = set()  # noqa: RUF012
    seen: list[set[str]] = []  # noqa: RUF012

    def submit(self, call, /, work, one):
        self.under_way.add(one.name)
        self.seen.append(set(self.under_way))
        future: Future[Outcome] = Future()

        def result(timeout=None):
            self.under_way.discard(one.name)
            return Outcome(source=one.source, name=one.name)

        future.set_result(None)
        future.result = result
        return future


def test_series_wait_until_there_is_memory_for_them(tmp_path, monkeypatch):
    sizes = {"a": 4, "b": 4, "c": 3, "d": 8, "e": 1, "f": 1}
    jobs = [job(tmp_path, name, memory=size * GB) for name, size in sizes.items()]
    monkeypatch.setattr(pool_module, "SerialExecutor", type(None))
    monkeypatch.setattr(run_module, "start", as_context(Slow()))
    found = list(outcomes(jobs, 3, hangs_never, "local", max_memory=9 * GB))
    assert sorted(o.name for o in found) == sorted(sizes)
    for together in Slow.seen:
        most = sorted((sizes[name] for name in together), reverse=True)[:3]
        assert sum(most) <= 9, together
    assert {"a", "b"} in Slow.seen
    assert max(map(len, Slow.seen)) > 1


def as_context(engine: Slow):
    @contextmanager
    def start(name: str, workers: int) -> Iterator[Slow]:
        yield engine

    return start


@pytest.fixture
def small_and_large(tmp_path: Path) -> Request:
    write_ct_series(tmp_path / "export" / "small", slices=2, rows=32, columns=32, patient_id="A")
    write_ct_series(tmp_path / "export" / "large", slices=4, rows=256, columns=256, patient_id="B")
    return Request(
        source=tmp_path / "export", output=tmp_path / "out", vault=tmp_path / "vault",
        plan=ProtectionPlan(method="random"), protector=None, labels=None,
        created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
    )  # fmt: skip


def test_a_series_that_needs_more_memory_than_there_is_is_left_out_with_what_to_do(
    small_and_large, tmp_path
):
    between = memory_of(4 * 256 * 256, 4, ProtectionPlan(method="random")) - 1
    run = CliRunner().invoke(
        main,
        ["protect", str(tmp_path / "export"), "-o", str(tmp_path / "out"), "--method=random",
         "--jobs=1", f"--max-memory={between / 1e6}MB"],
    )  # fmt: skip
    assert run.exit_code == 3
    assert "Protected 1 series with 2 images" in run.output
    assert "E_TOO_LARGE" in run.output
    assert "give it more, or protect it on a larger machine" in run.output
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 2


def test_more_memory_finishes_what_was_left_out_and_less_takes_nothing_away(small_and_large):
    between = memory_of(4 * 256 * 256, 4, ProtectionPlan(method="random")) - 1
    assert len(protect(replace(small_and_large, max_memory=between)).done) == 1
    assert len(protect(small_and_large).done) == 2
    again = protect(replace(small_and_large, max_memory=between))
    assert (len(again.done), again.left_out) == (2, ())


def test_memory_grows_with_voxels_and_more_so_where_a_volume_is_perturbed_as_one():
    plans = [
        ProtectionPlan(method="random"),
        ProtectionPlan(extent="slice"),
        ProtectionPlan(extent="volume"),
    ]
    needs = [[memory_of(voxels, 10, plan) for voxels in (10**7, 10**8)] for plan in plans]
    assert needs == sorted(needs)
    assert all(less < more for less, more in needs)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8 * GB), ("500 MB", 5 * 10**8), ("2GiB", 2 << 30), ("1.5g", 15 * 10**8), (None, 0)],
)
def test_a_size_is_understood(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "8 PB", "1GBGB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(PlanError, match="8GB"):
        bytes_of(text)


def test_the_serial_engine_refuses_a_time_that_it_cannot_keep(small_and_large):
    with pytest.raises(PlanError, match="--engine local"):
        protect(replace(small_and_large, engine="serial", max_seconds_per_file=1))


def test_one_large_image_needs_more_than_as_many_voxels_in_slices():
    for plan in (ProtectionPlan(method="random"), ProtectionPlan(extent="slice")):
        assert memory_of(10**7, 1, plan) > 1.2 * memory_of(10**7, 40, plan)
