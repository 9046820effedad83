"""The Dask engine: the bytes of the others, workers that die, schedulers that do not answer."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from salm_dicom import __version__
from salm_dicom.batch import cluster as cluster_module
from salm_dicom.batch.apart import APART, Apart
from salm_dicom.batch.bounds import Bounds
from salm_dicom.batch.cluster import Refused, connect, on_worker
from salm_dicom.batch.job import Job, Outcome
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.run import _held, outcomes
from salm_dicom.batch.vault import Vault
from salm_dicom.errors import PlanError
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series

# Scheduler and workers talk over the loopback interface.
pytestmark = pytest.mark.loopback

CREATED = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers of one thread, as `--engine` takes it."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address.replace("tcp://", "dask://")


@pytest.fixture
def export_of_six(tmp_path: Path) -> Path:
    for number in range(6):
        write_ct_series(
            tmp_path / "export" / str(number), slices=2, rows=32, columns=32,
            patient_id=f"P{number}", seed=number,
        )  # fmt: skip
    return tmp_path / "export"


def request(export: Path, name: str, **changes) -> Request:
    settings = {
        "source": export, "output": export.parent / name, "vault": export.parent / f"{name}.vault",
        "plan": ProtectionPlan(method="random"), "protector": None, "labels": None,
        "created": CREATED, "site_key": b"k" * 16,
    }  # fmt: skip
    return Request(**settings | changes)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def job(folder: Path, name: str) -> Job:
    return Job(
        source=name, name=name, paths=(), label=None, protector=folder,
        output=folder, vault=folder, created=CREATED, site_key=b"",
    )  # fmt: skip


def beside(work: Callable[..., Any], *arguments: object) -> Any:
    """Return what `work` gives in the process beside this Dask worker."""
    answer = pickle.loads(APART.do(False, pickle.dumps(partial(work, *arguments))))
    if answer.failed is not None:
        raise answer.failed
    return answer.value


def count_loads() -> None:
    """Count in this process how often it loads a protector."""
    from salm_dicom.protector import store

    real, store.loads = store.load, 0

    def counted(folder: Path):
        store.loads += 1
        return real(folder)

    store.load = counted


def loads() -> int:
    from salm_dicom.protector import store

    return store.loads


def has_module(name: str) -> bool:
    return name in sys.modules


def test_workers_import_what_they_need_while_the_driver_is_at_something_else(scheduler):
    with Client(scheduler.replace("dask://", ""), set_as_default=False) as client:
        assert not any(client.run(beside, has_module, "turtledemo").values())
        executor = connect(scheduler.replace("dask://", ""))
        executor.warm_up(("turtledemo",))
        executor.shutdown()
        until = time.monotonic() + 20
        while not all(client.run(beside, has_module, "turtledemo").values()):
            assert time.monotonic() < until
            time.sleep(0.05)


def test_every_engine_gives_the_same_bytes_and_a_worker_loads_the_protector_once(
    export_of_six, scheduler
):
    with Client(scheduler.replace("dask", "tcp"), set_as_default=False) as client:
        client.run(beside, count_loads)
        result = protect(request(export_of_six, "dask", engine=scheduler))
        assert (len(result.done), result.left_out) == (6, ())
        counts = client.run(beside, loads)
    assert set(counts.values()) == {1}
    assert len(counts) == 2
    protect(request(export_of_six, "serial", engine="serial"))
    protect(request(export_of_six, "local", jobs=2))
    places = [export_of_six.parent / name for name in ("dask", "serial", "local")]
    first, *others = map(digests, places)
    assert len(first) == 13
    assert others == [first, first]
    assert not list((export_of_six.parent / "dask.vault" / "begun").iterdir())


def test_relative_paths_mean_the_same_on_a_worker(export_of_six, scheduler, monkeypatch):
    monkeypatch.chdir(export_of_six.parent)
    asked = request(Path("export"), "out", engine=scheduler)
    result = protect(replace(asked, output=Path("out"), vault=Path("vault")))
    assert (len(result.done), result.left_out) == (6, ())
    assert len(list(export_of_six.parent.glob("out/*/*/*/*.dcm"))) == 12


def killed(victim: str) -> None:
    """Kill the process of a job, or the Dask worker that it is beside, which ends both."""
    if victim == "worker":
        time.sleep(1.5)  # as long as reading a series: Dask replaces no worker that just begins
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)  # until this process is ended
    os.kill(os.getpid(), signal.SIGKILL)


def dies_once(victim: str, job: Job) -> Outcome:
    """Kill a process after the output has got its name, the first time."""
    mark = job.vault / f"{job.name}.mark"
    place = job.output / job.name
    place.mkdir()  # as the writer does: fails where something is
    if job.name == "2" and not mark.exists():
        mark.write_text(str(os.getpid()))
        killed(victim)
    return Outcome(source=job.source, name=job.name, record="{}")


def dies_always(victim: str, job: Job) -> Outcome:
    with (job.vault / f"{job.name}.starts").open("ab") as stream:
        stream.write(b".")
    if job.name == "2":
        killed(victim)
    return Outcome(source=job.source, name=job.name, record="{}")


def is_running(process: int) -> bool:
    """Say whether a process is there, and more than its exit status that nobody asks for."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("victim", ["process", "worker"])
def test_a_series_whose_dask_worker_was_killed_is_done_by_another(tmp_path, scheduler, victim):
    work = partial(dies_once, victim)
    found = outcomes([job(tmp_path, str(n)) for n in range(6)], 1, work, scheduler)
    assert {o.name: o.code for o in found} == {str(n): "" for n in range(6)}
    until = time.monotonic() + 10
    while is_running(int((tmp_path / "2.mark").read_text())):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("victim", ["process", "worker"])
def test_a_series_that_kills_dask_workers_three_times_is_left_out(tmp_path, scheduler, victim):
    work = partial(dies_always, victim)
    found = outcomes([job(tmp_path, str(n)) for n in range(6)], 1, work, scheduler)
    codes = {o.name: o.code for o in found}
    assert codes == {str(n): "E_CRASH" if n == 2 else "" for n in range(6)}
    assert (tmp_path / "2.starts").stat().st_size == 3


def test_a_job_that_kills_its_process_leaves_the_dask_worker_alone(tmp_path, scheduler):
    with Client(scheduler.replace("dask", "tcp"), set_as_default=False) as client:
        client.wait_for_workers(2)
        before = set(client.run(os.getpid).values())
        list(outcomes([job(tmp_path, "2")], 1, partial(dies_always, "process"), scheduler))
        assert set(client.run(os.getpid).values()) == before


class NotesWhereItIsOpened:
    """Work that leaves the number of each process that unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / str(os.getpid())).touch()

    def __reduce__(self):
        return type(self), (self.folder,)

    def __call__(self, one: Job) -> Outcome:
        return Outcome(source=one.source, name=one.name)


def test_only_the_processes_beside_workers_open_a_job(tmp_path, scheduler):
    folder = tmp_path / "opened"
    folder.mkdir()
    work = NotesWhereItIsOpened(folder)
    (folder / str(os.getpid())).unlink()  # the scheduler is in this process
    assert len(list(outcomes([job(tmp_path, str(n)) for n in range(4)], 1, work, scheduler))) == 4
    opened = {int(one.name) for one in folder.iterdir()}
    assert opened
    with Client(scheduler.replace("dask", "tcp"), set_as_default=False) as client:
        workers = set(client.run(os.getpid).values())
    assert not opened & {os.getpid(), *workers}


def test_a_worker_with_other_software_or_other_disks_is_refused(tmp_path, scheduler):
    found = on_worker("0.0", False, b"of another version: not opened")
    assert isinstance(found, Refused)
    assert __version__ in found.reason
    elsewhere = job(tmp_path / "not there", "1")
    with pytest.raises(PlanError, match="under the same paths"):
        list(outcomes([elsewhere], 1, partial(dies_always, "process"), scheduler))


def span() -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(0.05)
    return start, time.monotonic()


def test_a_worker_of_many_threads_does_one_series_at_a_time():
    process, spans = beside(os.getpid), list[tuple[float, float]]()
    threads = [threading.Thread(target=lambda: spans.append(beside(span))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans.sort()
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert beside(os.getpid) == process


def test_a_process_that_a_thread_needed_first_lives_on_without_it():
    apart, work, found = Apart(), pickle.dumps(os.getpid), []
    thread = threading.Thread(target=lambda: found.append(apart.do(False, work)))
    thread.start()
    thread.join()
    assert found == [apart.do(False, work)]


def raises() -> None:
    raise LookupError("what was wrong")


def unsendable() -> object:
    return threading.Lock()


def test_what_a_job_raises_comes_back_and_its_process_lives_on():
    process = beside(os.getpid)
    with pytest.raises(LookupError, match="what was wrong"):
        beside(raises)
    with pytest.raises(RuntimeError, match="an unforeseen TypeError"):
        beside(unsendable)
    assert beside(os.getpid) == process


def test_a_process_that_was_killed_while_it_waited_is_replaced():
    process = beside(os.getpid)
    os.kill(process, signal.SIGKILL)
    assert beside(os.getpid) not in {process, os.getpid()}


def test_work_that_no_process_survives_is_given_up(monkeypatch):
    monkeypatch.setattr("salm_dicom.batch.apart._TRIES", 2)
    assert Apart().do(False, pickle.dumps(partial(killed, "process"))) == b""


def test_what_a_killed_worker_had_written_is_removed_before_the_series_is_done_again(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "00001.dcm").write_text("whole, but nobody knows")
    seen = []

    def work(one: Job) -> Outcome:
        seen.append((one.output / one.name).exists())
        return Outcome(source=one.source, name=one.name)

    _held(work, job(tmp_path, "1"))
    assert seen == [False]
    assert not list(Vault(tmp_path).begun.iterdir())


def test_a_scheduler_that_does_not_answer_is_a_clear_sentence_before_anything_is_written(
    export_of_six, monkeypatch
):
    monkeypatch.setattr(cluster_module, "_PATIENCE_S", 1)
    with pytest.raises(PlanError, match=r"no Dask scheduler answers at .*dask worker"):
        protect(request(export_of_six, "out", engine="dask://127.0.0.1:1"))
    assert not (export_of_six.parent / "out.vault").exists()


def test_without_the_extra_the_sentence_says_what_to_install(export_of_six, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(PlanError, match=r"salm_dicom\[dask\]"):
        protect(request(export_of_six, "out", engine="dask://127.0.0.1:1"))


@pytest.mark.parametrize(
    "name", ["spark", "dask", "dask://", "local://", "local://x", "copies", ""]
)
def test_an_engine_that_there_is_not_is_refused(export_of_six, name):
    with pytest.raises(PlanError, match="an engine is local, serial, or dask"):
        protect(request(export_of_six, "out", engine=name))


def hangs_on_the_second(one: Job) -> Outcome:
    if one.name == "2":
        time.sleep(0.5)
        ctypes.PyDLL(None).sleep(600)
    return Outcome(source=one.source, name=one.name, record="{}")


def test_a_job_that_hangs_on_a_cluster_is_ended_and_listed(tmp_path, scheduler):
    jobs = [replace(job(tmp_path, str(n)), bounds=Bounds(seconds=2)) for n in range(4)]
    found = {o.name: o.code for o in outcomes(jobs, 1, hangs_on_the_second, scheduler)}
    assert found == {str(n): "E_TIMEOUT" if n == 2 else "" for n in range(4)}


def takes_its_time(one: Job) -> Outcome:
    time.sleep(0.3)
    return Outcome(source=one.source, name=one.name, record="{}")


def test_a_run_that_loses_its_scheduler_ends_with_a_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "_PATIENCE_S", 2)
    jobs = [job(tmp_path, str(n)) for n in range(30)]
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    )
    address = cluster.scheduler_address.replace("tcp://", "dask://")
    found = outcomes(jobs, 1, takes_its_time, address)
    assert next(found).code == ""
    cluster.close()
    with pytest.raises(PlanError, match="no Dask scheduler answers"):
        list(found)
