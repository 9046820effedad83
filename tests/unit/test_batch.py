"""The batch: labels, names, ledger, lock, a full disk, a changed source, and the way back."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from salm_dicom.batch import engines
from salm_dicom.batch import job as job_module
from salm_dicom.batch import run as run_module
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.engines import SerialExecutor
from salm_dicom.batch.job import Job, Outcome, outcome_of
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.names import plan_names
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.restore import restore
from salm_dicom.batch.run import outcomes
from salm_dicom.batch.source import fill
from salm_dicom.batch.vault import Vault, read_kept
from salm_dicom.dicom import encode as encode_module
from salm_dicom.dicom import series as series_module
from salm_dicom.dicom.scan import scan
from salm_dicom.errors import DiskFull, Locked, MismatchError, NoLabel, PlanError, UnsafeError
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
CANARY = "CANARY2468"


def request(export: Path, **changes) -> Request:
    settings = {
        "source": export, "output": export.parent / "out", "vault": export.parent / "vault",
        "plan": ProtectionPlan(method="random"), "protector": None, "labels": None,
        "created": CREATED, "site_key": b"k" * 16,
    }  # fmt: skip
    return Request(**settings | changes)


def table(folder: Path, *rows: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize("by", ["series", "study", "patient", "instance", "path"])
def test_a_series_is_found_by_each_kind_of_key(export, tmp_path, by):
    series = scan(export).series[0]
    first = series.headers[0]
    key = {
        "series": first.series_uid, "study": first.study_uid, "patient": first.patient_id,
        "instance": first.sop_uid, "path": "a",
    }[by]  # fmt: skip
    labels = Labels.read(table(tmp_path, "key,label", f"{key},thorax"), by=by, root=export)
    assert labels.of(series) == "thorax"
    with pytest.raises(NoLabel, match="no row"):
        labels.of(scan(export).series[1])


def test_instances_with_different_labels_have_none(export, tmp_path):
    series = scan(export).series[0]
    rows = [f"{h.sop_uid},{n}" for n, h in enumerate(series.headers)]
    labels = Labels.read(table(tmp_path, "key,label", *rows), by="instance", root=export)
    with pytest.raises(NoLabel, match="3 different labels"):
        labels.of(series)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["uid,label", "1,a"], "columns `key` and `label`"),
        (["key,label", "1,"], "line 2 of the labels file is incomplete"),
        (["key,label", "1,a", "1,b"], "line 3 contradicts"),
        (["key,label"], "no rows"),
    ],
)
def test_a_labels_file_that_cannot_be_meant_is_refused(tmp_path, rows, says):
    with pytest.raises(PlanError, match=says):
        Labels.read(table(tmp_path, *rows), by="series", root=tmp_path)


def planned_names(export: Path, ledger: Ledger) -> dict[str, str]:
    with Catalog.new() as catalog:
        fill(catalog, export)
        plan_names(catalog, ledger)
    return {row.source: row.name for row in ledger.rows()}


def test_names_are_counters_and_stay_when_the_export_grows(export, tmp_path):
    with Ledger.open(tmp_path / "ledger") as ledger:
        before = planned_names(export, ledger)
        assert sorted(before.values()) == [
            "patient-0001/study-01/series-001", "patient-0002/study-01/series-001",
        ]  # fmt: skip
        write_ct_series(export / "new", patient_id="AAA", seed=8)
        write_ct_series(export / "more", patient_id="SYN001", seed=9)
        after = planned_names(export, ledger)
    assert before.items() <= after.items()
    assert sorted(set(after.values()) - set(before.values())) == [
        "patient-0001/study-02/series-001", "patient-0003/study-01/series-001",
    ]  # fmt: skip


def test_an_output_is_not_continued_with_other_settings(export):
    protect(request(export))
    with pytest.raises(UnsafeError, match="other settings"):
        protect(request(export, plan=ProtectionPlan(method="random", seed=1)))


def test_a_series_that_got_a_slice_is_named_and_not_protected_a_second_time(export):
    paths = sorted(export.glob("a/*.dcm"), key=lambda p: pydicom.dcmread(p).SOPInstanceUID)
    for late in (paths[0], paths[-1]):
        aside = late.with_suffix(".later")
        place = export.parent / f"run-{late.stem}"
        run = {"output": place / "out", "vault": place / "vault"}
        elsewhere = export.parent / aside.name
        late.rename(elsewhere)
        protect(request(export, **run))
        elsewhere.rename(late)
        result = protect(request(export, **run))
        assert late in {e.path for e in result.left_out}
        assert {e.code for e in result.left_out} == {"E_CHANGED"}
        assert len(list((place / "out").rglob("*.dcm"))) == 5


def test_two_runs_do_not_write_to_one_output(export):
    vault = Vault(export.parent / "vault")
    vault.create()
    with vault.locked(), pytest.raises(Locked):
        protect(request(export))
    assert len(protect(request(export)).done) == 2


def test_a_full_disk_ends_the_run_keeps_what_is_done_and_a_second_run_finishes(export, monkeypatch):
    written = []
    real = os.fsync

    def full_after_the_first_series(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 8:  # the protector, the first series, its folders and its vault file
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(series_module.os, "fsync", full_after_the_first_series)
    with pytest.raises(DiskFull, match="no space left after 1 of 2 series"):
        protect(request(export))
    monkeypatch.undo()
    out = export.parent / "out"
    assert len(list(out.rglob("*.dcm"))) == 3
    assert not list(out.rglob("*.partial"))
    assert len(protect(request(export)).done) == 2
    assert len(list(out.rglob("*.dcm"))) == 6


def test_a_source_that_changes_between_reading_and_writing_is_left_out(export, monkeypatch):
    real = job_module.read_series

    def read_then_change(paths, **options):
        found = real(paths, **options)
        if paths[1].parent.name == "a":
            data = bytearray(paths[1].read_bytes())
            data[-1] ^= 1
            paths[1].write_bytes(data)
        return found

    monkeypatch.setattr(job_module, "read_series", read_then_change)
    result = protect(request(export))
    assert {e.code for e in result.left_out} == {"E_CHANGED"}
    assert len(result.done) == 1
    assert len(list((export.parent / "out").rglob("*.dcm"))) == 3


def dies_on_the_second(job: Job) -> Outcome:
    """Stand in for a job in a worker; the second series kills it, every time."""
    if job.name == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(source=job.source, name=job.name, record="{}")


def test_a_series_that_kills_its_worker_is_left_out_and_the_others_are_done(tmp_path):
    jobs = [
        Job(
            source=str(n), name=str(n), paths=(), label=None, protector=tmp_path,
            output=tmp_path, vault=tmp_path, created=CREATED, site_key=b"",
        )
        for n in range(8)
    ]  # fmt: skip
    (tmp_path / "2.partial").mkdir()
    found = {o.name: o.code for o in outcomes(jobs, 2, dies_on_the_second)}
    assert found == {str(n): "E_CRASH" if n == 2 else "" for n in range(8)}
    assert not (tmp_path / "2.partial").exists()


def dies_at_once(_: bool) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_that_die_as_they_start_end_the_run_and_no_series_is_blamed(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "_prepare_worker", dies_at_once)
    jobs = [
        Job(
            source=str(n), name=str(n), paths=(), label=None, protector=tmp_path,
            output=tmp_path, vault=tmp_path, created=CREATED, site_key=b"",
        )
        for n in range(4)
    ]  # fmt: skip
    with pytest.raises(PlanError, match="--jobs 1 works in this process"):
        list(outcomes(jobs, 2, dies_on_the_second))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_killed_while_its_pool_ends_does_not_hold_it_up(victim):
    pool = engines.start("local", 2)
    assert {future.result() for future in [pool.submit(os.getpid) for _ in range(20)]}
    workers = [*pool._processes]
    assert len(workers) == 2
    for one in workers:
        os.kill(one, signal.SIGSTOP)
    ending = threading.Thread(target=pool.shutdown)
    ending.start()
    time.sleep(0.3)  # the pool waits for its workers to end; one of them holds the queue's lock
    os.kill(workers[victim], signal.SIGKILL)
    os.kill(workers[1 - victim], signal.SIGCONT)
    ending.join(20)
    assert not ending.is_alive()


class Frail(SerialExecutor):
    """Stand in for a pool that does one job and then loses its idle workers."""

    def __init__(self):
        self.done = 0

    def submit(self, job, /, *args, **kwargs):
        self.done += 1
        if self.done == 1:
            return super().submit(job, *args, **kwargs)
        future = Future()
        future.set_exception(BrokenExecutor())
        return future


def test_idle_workers_that_die_now_and_then_do_not_end_a_run_that_gets_on(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "start", lambda *_: Frail())
    monkeypatch.setattr(run_module, "at_once_on", lambda *_: 2)
    jobs = [
        Job(
            source=str(n), name=str(n), paths=(), label=None, protector=tmp_path,
            output=tmp_path, vault=tmp_path, created=CREATED, site_key=b"",
        )
        for n in (0, 1, 3, 4, 5, 6)
    ]  # fmt: skip
    found = list(outcomes(jobs, 2, dies_on_the_second))
    assert sorted(one.name for one in found if one.record) == ["0", "1", "3", "4", "5", "6"]


class LateCluster(SerialExecutor):
    """Stand in for a cluster whose worker comes after a while."""

    workers = 0

    def submit(self, job, /, *args, **kwargs):
        future = Future()
        threading.Timer(0.2, lambda: future.set_result(job(*args, **kwargs))).start()
        return future


def test_who_waits_for_a_cluster_without_workers_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(run_module, "start", lambda *_: LateCluster())
    only = Job(
        source="0", name="0", paths=(), label=None, protector=tmp_path,
        output=tmp_path, vault=tmp_path, created=CREATED, site_key=b"",
    )  # fmt: skip
    told = []
    found = outcomes([only], 1, dies_on_the_second, "dask://x", idle=lambda: told.append(1))
    assert [one.record for one in found] == ["{}"]
    assert told


def test_what_nobody_foresaw_is_one_series_and_leaves_no_value_in_the_log(export, monkeypatch):
    def fail(paths, **_):
        raise RuntimeError(f"secret of {paths[0]}")

    monkeypatch.setattr(job_module, "read_series", fail)
    result = protect(request(export))
    assert {e.code for e in result.left_out} == {"E_UNEXPECTED"}
    assert len(result.log) == 2
    for line in (*result.log, *(e.reason for e in result.left_out)):
        assert "RuntimeError" in line
        assert "secret" not in line


def test_compressed_sources_come_back_with_their_values(tmp_path):
    paths = write_ct_series(tmp_path / "export", transfer_syntax=JPEG2000Lossless)
    protect(request(tmp_path / "export"))
    found = restore(tmp_path / "out", tmp_path / "vault", tmp_path / "back")
    assert (found.identical + found.recompressed, found.failed) == (3, ())
    for source, path in zip(paths, sorted((tmp_path / "back").rglob("*.dcm")), strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(path)
        assert (before.pixel_array == after.pixel_array).all()
        assert before.SOPInstanceUID == after.SOPInstanceUID
        assert before.file_meta == after.file_meta


def test_an_image_that_the_encoder_refuses_is_written_uncompressed(tmp_path, monkeypatch):
    paths = write_ct_series(tmp_path / "export", transfer_syntax=JPEG2000Lossless)

    def refuse(*_):
        raise RuntimeError("the encoder takes no image of this size")

    monkeypatch.setattr(encode_module, "_compress", refuse)
    assert len(protect(request(tmp_path / "export")).done) == 1
    written = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert written.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    found = restore(tmp_path / "out", tmp_path / "vault", tmp_path / "back")
    assert (found.recompressed, found.failed) == (3, ())
    for source, path in zip(paths, sorted((tmp_path / "back").rglob("*.dcm")), strict=True):
        before, after = pydicom.dcmread(source), pydicom.dcmread(path)
        assert (before.pixel_array == after.pixel_array).all()
        assert before.SOPInstanceUID == after.SOPInstanceUID


def test_a_protected_file_that_was_changed_since_is_not_restored(export):
    protect(request(export))
    path = next((export.parent / "out").rglob("*.dcm"))
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes(data)
    found = restore(export.parent / "out", export.parent / "vault", export.parent / "back")
    assert found.identical == 5
    assert [p for p, _ in found.failed] == [path]
    assert "changed" in found.failed[0][1]


def test_a_damaged_vault_is_an_error_with_a_code(export):
    protect(request(export))
    kept = next((export.parent / "vault" / "kept").iterdir())
    kept.write_bytes(kept.read_bytes()[:1000])
    with pytest.raises(MismatchError, match="cannot be read"):
        read_kept(kept)


def test_the_vault_is_private_and_the_output_is_its_owner_s(export):
    protect(request(export))
    vault, out = export.parent / "vault", export.parent / "out"
    assert vault.stat().st_mode & 0o777 == 0o700
    for path in [*vault.rglob("*"), *out.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


class Panic(BaseException):
    """What a codec written in Rust raises: no `Exception`."""


@pytest.mark.parametrize("raised", [Panic, RuntimeError])
def test_whatever_a_job_raises_is_its_outcome_but_an_interrupt_goes_through(tmp_path, raised):
    job = SimpleNamespace(source="s", name="n", output=tmp_path, vault=tmp_path)

    def work(kind: type[BaseException]):
        def fail(_: object) -> str:
            raise kind(f"quotes {CANARY}")

        return lambda: outcome_of(job, fail)

    found = work(raised)()
    assert found.code == "E_UNEXPECTED"
    assert raised.__name__ in found.reason
    assert CANARY not in found.reason + found.frames
    with pytest.raises(KeyboardInterrupt):
        work(KeyboardInterrupt)()
