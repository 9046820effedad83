"""A run that is killed, an export that grows, a disk that fills up: nothing is lost in silence."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest

from salm_dicom.batch import job as job_module
from salm_dicom.batch import protect as protect_module
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.restore import restore
from salm_dicom.batch.vault import KeptWriter, Vault, read_kept
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.series import Series, read_series
from salm_dicom.errors import DiskFull, UnsafeError
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import write_ct_series

SERIES = "study-01/series-001"


@pytest.fixture
def request_(tmp_path) -> Request:
    """Three patients with one series of two small slices each."""
    for number in (1, 2, 3):
        folder = tmp_path / "export" / str(number)
        write_ct_series(folder, slices=2, rows=32, columns=32, patient_id=f"P{number}")
    return Request(
        source=tmp_path / "export", output=tmp_path / "out", vault=tmp_path / "vault",
        plan=ProtectionPlan(method="random"), protector=None, labels=None,
        created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
    )  # fmt: skip


@pytest.fixture
def undisturbed(request_, tmp_path) -> dict[str, str]:
    """What a run that nothing disturbs gives."""
    whole = replace(request_, output=tmp_path / "whole", vault=tmp_path / "whole.vault")
    protect(whole)
    return digests(whole.output)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def interrupted_before_the_second(request: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(paths: tuple[Path, ...], **options) -> Series:
        if paths[0].parent.name == "2":
            raise KeyboardInterrupt
        return read_series(paths, **options)

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "read_series", interrupt)
        with pytest.raises(KeyboardInterrupt):
            protect(request)


def test_an_interrupted_run_keeps_what_is_done_and_the_next_one_gives_the_same_bytes(
    request_, undisturbed, monkeypatch
):
    interrupted_before_the_second(request_, monkeypatch)
    assert len(list(request_.output.rglob("*.dcm"))) == 2
    result = protect(replace(request_, created=datetime(2030, 1, 1, tzinfo=UTC)))
    assert (len(result.done), result.resumed) == (3, 1)
    assert digests(request_.output) == undisturbed


def test_half_a_series_that_a_killed_run_left_is_replaced(request_, undisturbed, monkeypatch):
    interrupted_before_the_second(request_, monkeypatch)
    partial = request_.output / "patient-0002" / f"{SERIES}.partial"
    partial.mkdir(parents=True)
    (partial / "00001.dcm").write_text("half")
    protect(request_)
    assert digests(request_.output) == undisturbed


def test_a_run_killed_between_the_last_file_and_the_ledger_can_be_finished(request_, undisturbed):
    protect(request_)
    with sqlite3.connect(Vault(request_.vault).ledger) as connection:
        connection.execute("UPDATE series SET done = 0, record = '' WHERE name LIKE '%0002%'")
    result = protect(request_)
    assert [entry.code for entry in result.left_out] == []
    assert len(result.done) == 3
    assert digests(request_.output) == undisturbed


def test_a_run_killed_while_it_wrote_the_manifest_can_be_finished(request_, undisturbed):
    protect(request_)
    (request_.output / "manifest.json").rename(request_.output / "manifest.json.partial")
    protect(request_)
    assert digests(request_.output) == undisturbed


def test_a_full_disk_while_the_vault_is_written_leaves_a_run_that_can_be_finished(
    request_, undisturbed, monkeypatch
):
    def full(self: KeptWriter, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(KeptWriter, "write", full)
        with pytest.raises(DiskFull):
            protect(request_)
    assert len(protect(request_).done) == 3
    assert digests(request_.output) == undisturbed
    assert restore(request_.output, request_.vault, request_.vault.parent / "back").failed == ()


def test_a_full_disk_while_the_manifest_is_written_is_a_full_disk(request_, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(protect_module, "write_manifest", full)
    with pytest.raises(DiskFull):
        protect(request_)


def test_a_second_run_changes_nothing(request_):
    protect(request_)
    before = {p: p.stat().st_mtime_ns for p in request_.output.rglob("*.dcm")}
    result = protect(request_)
    assert result.resumed == 3
    assert {p: p.stat().st_mtime_ns for p in request_.output.rglob("*.dcm")} == before


def test_a_patient_that_comes_later_does_not_touch_what_is_there(request_):
    protect(request_)
    before = digests(request_.output)
    write_ct_series(request_.source / "0", slices=1, rows=32, columns=32, patient_id="A")
    result = protect(request_)
    assert (len(result.done), result.resumed) == (4, 3)
    after = digests(request_.output)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"manifest.json", f"patient-0004/{SERIES}/00001.dcm"}


def test_another_patient_s_series_does_not_go_to_the_folder_of_a_known_one(request_):
    protect(request_)
    shutil.rmtree(request_.source / "1")
    write_ct_series(request_.source / "9", slices=1, rows=32, columns=32, patient_id="P9")
    protect(request_)
    patients = {
        path.parts[-4]: {str(pydicom.dcmread(p).PatientID) for p in path.parent.glob("*.dcm")}
        for path in request_.output.rglob("*.dcm")
    }
    assert patients == {
        "patient-0001": {"P1"}, "patient-0002": {"P2"},
        "patient-0003": {"P3"}, "patient-0004": {"P9"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "places",
    [
        {"output": "export"}, {"output": "export/1/out"}, {"vault": "export/vault"},
        {"vault": "out"}, {"vault": "out/vault"}, {"output": "vault/out"}, {"output": "."},
    ],
)  # fmt: skip
def test_folders_inside_each_other_are_refused_before_anything_is_written(
    request_, tmp_path, places
):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnsafeError, match="lies in"):
        protect(replace(request_, **{name: tmp_path / path for name, path in places.items()}))
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_a_link_into_the_source_is_refused(request_, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "export" / "1")
    with pytest.raises(UnsafeError):
        protect(request_)


def test_an_output_without_its_vault_is_refused(request_):
    protect(request_)
    shutil.rmtree(request_.vault)
    before = digests(request_.output)
    with pytest.raises(UnsafeError, match="not from a run with this vault"):
        protect(request_)
    assert digests(request_.output) == before


def test_the_manifest_may_be_shared(request_):
    (request_.source / "notes.txt").write_text("x")
    protect(request_)
    text = (request_.output / "manifest.json").read_text()
    content = json.loads(text)
    assert [one["folder"] for one in content["series"]] == [
        f"patient-000{n}/{SERIES}" for n in (1, 2, 3)
    ]
    assert content["left_out"] == {"E_NOT_DICOM": 1}
    for path in request_.source.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            assert f'"{dataset[keyword].value}"' not in text
    assert "seed" not in text
    assert str(request_.source) not in text


def test_what_the_vault_keeps_leads_back_from_protected_to_source(request_):
    protect(request_)
    for name in ("patient-0001", "patient-0002", "patient-0003"):
        kept = read_kept(Vault(request_.vault).kept(f"{name}/{SERIES}"))
        folder = request_.source / str(int(name[-4:]))
        sources = {read(path).sha256: read(path) for path in folder.iterdir()}
        for path in (request_.output / name / SERIES).iterdir():
            protected = read(path)
            one = kept.pop(str(pydicom.dcmread(path).SOPInstanceUID))
            source = sources.pop(one.sha256)
            before = stored_values(protected).astype(int) - one.delta
            assert (before == stored_values(source)).all()
        assert not kept
        assert not sources
