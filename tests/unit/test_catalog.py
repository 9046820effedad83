"""The catalog: an export in SQLite is what it is in memory; names and results come from tables."""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom.batch import manifest as manifest_module
from salm_dicom.batch import source as source_module
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Kept, _json
from salm_dicom.batch.names import plan_names
from salm_dicom.batch.packing import packed, unpacked
from salm_dicom.batch.pool import in_order
from salm_dicom.batch.protect import Request, protect
from salm_dicom.batch.source import Export, fill, find, listed, read_chunk
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.scan import Scan, scan
from salm_dicom.errors import DiskFull
from salm_dicom.plan import ProtectionPlan
from tests.objects import write_report, write_segmentation
from tests.synthetic import write_ct_series


@pytest.fixture
def untidy(tmp_path: Path) -> Path:
    """Series across folders, copies and contradictions, objects, volumes that fall apart, noise."""
    root = tmp_path / "export"
    first = write_ct_series(root / "z", slices=6, rows=16, columns=16, patient_id="B", seed=1)
    (root / "a" / "deep").mkdir(parents=True)
    for path in first[::2]:
        path.rename(root / "a" / "deep" / path.name)
    shutil.copy(first[1], root / "a" / "copy.dcm")
    second = write_ct_series(root / "m", slices=3, rows=16, columns=16, patient_id="A", seed=2)
    other = bytearray(second[0].read_bytes())
    other[-1] ^= 1
    (root / "other.dcm").write_bytes(other)
    write_ct_series(root / "gap", slices=3, rows=16, columns=16, gaps_mm=(1, 5), patient_id="C")
    write_ct_series(root / "bad", slices=2, rows=16, columns=16, patient_id="D",
                    orientation=(1, 0, 0, 1, 0, 0))  # fmt: skip
    write_segmentation(root / "seg.dcm", second)
    write_report(root / "report.dcm", second)
    (root / "notes.txt").write_text("x")
    (root / "empty.dcm").touch()
    (root / os.fsdecode(b"caf\xe9.dcm")).write_bytes(first[1].read_bytes())
    return root


def shown(found: Scan | Export) -> dict[str, object]:
    series = found.series
    return {
        "series": [[str(path) for path in one.paths] for one in series],
        "headers": [one.headers for one in series],
        "geometry": [(one.affine.tolist(), one.irregular, one.stack.gaps_mm) for one in series],
        "objects": found.objects,
        "indexes": found.indexes,
        "left_out": sorted((os.fsencode(r.path), r.code, r.reason) for r in found.left_out),
    }


def test_the_catalog_holds_what_a_scan_in_memory_finds(untidy):
    expected = shown(scan(untidy))
    assert len(expected["series"]) == 3
    assert len({code for _, code, _ in expected["left_out"]}) == 5
    assert shown(find(untidy)) == expected


def test_files_are_read_in_any_order_and_found_in_one(untidy):
    expected = [[path.name for path in one.paths] for one in find(untidy).series]
    for folder in ("m", "gap"):
        (untidy / folder).rename(untidy / f"0{folder}")
    assert [[path.name for path in one.paths] for one in find(untidy).series] == expected


text = st.text(st.characters(max_codepoint=255), max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False)
headers = st.builds(
    InstanceHeader,
    path=st.binary(min_size=1, max_size=6)
    .filter(lambda name: b"\0" not in name and name.strip(b"./"))
    .map(lambda name: Path(os.fsdecode(b"/x/" + name))),
    sop_class=text, sop_uid=text, series_uid=text, study_uid=text, patient_id=text, modality=text,
    image_type=st.lists(text).map(tuple), instance_number=st.integers(-(10**12), 10**12),
    position=st.lists(number).map(tuple), orientation=st.lists(number).map(tuple),
    spacing=st.lists(number).map(tuple), pixel_format=st.lists(st.integers() | text).map(tuple),
    splitting=st.lists(text).map(tuple), is_protected=st.booleans(), quantity=text,
    frames=st.integers(1, 10**6), study_date=text,
)  # fmt: skip


@given(headers)
@settings(max_examples=50, deadline=None)
def test_a_header_comes_back_from_the_catalog_as_it_was(header):
    again = unpacked(packed(header), InstanceHeader)
    assert again == header
    assert again.volume_key == header.volume_key


def test_patients_whose_ids_begin_alike_up_to_a_zero_byte_are_two(tmp_path):
    with Catalog.new() as catalog, Ledger.open(tmp_path / "ledger") as ledger:
        for patient in ("A\0B", "A\0C", "A"):
            catalog.connection.execute(
                "INSERT INTO series (key, kind, patient_id, study_uid, images, about) "
                "VALUES (?, 'dicom', ?, 's', 1, '')",
                (patient, patient),
            )
        plan_names(catalog, ledger)
        assert len({row.name.split("/")[0] for row in ledger.rows()}) == 3


def test_a_thousand_rows_are_read_page_by_page_while_they_change(tmp_path):
    with Ledger.open(tmp_path / "ledger") as ledger:
        ledger.plan((f"s{n}", f"patient-{n:04d}/study-01/series-001", 1) for n in range(1000))
        seen = []
        for row in ledger.rows():
            ledger.finish(row.source, record="{}")
            seen.append(row.name)
        assert seen == sorted(set(seen))
        assert len(seen) == 1000
        assert all(row.done for row in ledger.rows())
        assert ledger.owns("patient-0999")
        assert not ledger.owns("patient-099")
        assert not ledger.owns("patient-1000")


@pytest.mark.parametrize("items", [[], [{"b": 1, "a": [1, 2], "c": {}}], [{"x": "ä"}, {"y": []}]])
def test_a_manifest_that_is_written_by_and_by_is_the_json_of_all_of_it(items):
    rest = {"plan": {"b": [1.5, None], "a": {}}, "created": "x", "left_out": {"E_A": 3}}
    whole = json.dumps(rest | {"series": items}, indent=1, sort_keys=True) + "\n"
    assert "".join(_json(rest | {"series": iter(items)})) == whole


def request(export: Path, name: str = "out") -> Request:
    return Request(
        source=export, output=export.parent / name, vault=export.parent / f"{name}.vault",
        plan=ProtectionPlan(method="random"), protector=None, labels=None,
        created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
    )  # fmt: skip


def test_a_long_result_is_read_from_the_vault_and_says_the_same(untidy, monkeypatch):
    short = protect(request(untidy, "short"))
    monkeypatch.setattr(manifest_module, "_SHORT", 1)
    long = protect(request(untidy, "long"))
    for one, other in ((short.done, long.done), (short.left_out, long.left_out)):
        assert isinstance(other, Kept)
        assert len(other) == len(one) > 1
        assert other == one
        assert other[-1] == one[-1]
        assert other[1:] == one[1:]
        assert list(other) == list(other)
    assert [one.kind for one in long.copied] == [one.kind for one in short.copied]


def test_an_export_without_anything_to_protect_leaves_no_vault(tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "notes.txt").write_text("x")
    asked = request(tmp_path / "export")
    assert protect(asked).done == ()
    assert not asked.vault.exists()
    asked.vault.mkdir()
    (asked.vault / "mine").touch()
    protect(asked)
    assert (asked.vault / "mine").exists()


def test_a_study_stays_in_one_folder_when_its_patient_came_back_under_another(tmp_path):
    """A patient who left the export and came back with another series has two numbers."""
    root = tmp_path / "export"
    for name, study, number in (("a", 1, 1), ("b", 2, 1), ("c", 1, 2)):
        write_ct_series(
            tmp_path / name,
            slices=1,
            rows=16,
            columns=16,
            patient_id="P",
            study_uid=f"1.2.{study}",
            series_number=number,
        )
    shutil.copytree(tmp_path / "a", root / "a")
    protect(request(root))
    shutil.rmtree(root / "a")
    shutil.copytree(tmp_path / "b", root / "b")
    protect(request(root))
    for name in "ac":
        shutil.copytree(tmp_path / name, root / name)
    result = protect(request(root))
    assert sorted(one.name for one in result.done) == [
        "patient-0001/study-01/series-001", "patient-0001/study-01/series-002",
        "patient-0002/study-01/series-001",
    ]  # fmt: skip


def test_a_scan_of_many_processes_finds_what_one_finds(untidy, monkeypatch):
    monkeypatch.setattr(source_module, "_CHUNK", 2)
    with Catalog.new() as catalog:
        fill(catalog, untidy, read=partial(in_order, read_chunk, 2, "local"))
        assert shown(listed(catalog)) == shown(scan(untidy))


def dies_once(folder: Path, part: int) -> int:
    """Kill the process at the fifth part, the first time."""
    mark = folder / "died"
    if part == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return part * part


def dies_in_a_worker(main: int, part: int) -> int:
    if os.getpid() != main:
        os.kill(os.getpid(), signal.SIGKILL)
    return part * part


def test_parts_come_in_order_also_when_a_process_dies(tmp_path):
    squares = [part * part for part in range(20)]
    assert list(in_order(partial(dies_once, tmp_path), 2, "local", range(20))) == squares
    assert (tmp_path / "died").exists()
    assert list(in_order(partial(dies_in_a_worker, os.getpid()), 2, "local", range(20))) == squares


def fill_up(opened: AbstractContextManager[Catalog | Ledger]) -> None:
    with opened as one:
        connection = one.connection if isinstance(one, Catalog) else one._connection
        connection.execute("PRAGMA max_page_count=1")
        connection.execute("CREATE TABLE more (what BLOB)")
        for _ in range(100):
            connection.execute("INSERT INTO more VALUES (?)", (b"x" * 10_000,))


@pytest.mark.parametrize("which", ["catalog", "ledger"])
def test_a_disk_that_is_full_for_the_vault_is_a_full_disk(tmp_path, which):
    opened = Catalog.new(tmp_path / "c") if which == "catalog" else Ledger.open(tmp_path / "l")
    with pytest.raises(DiskFull, match="the vault"):
        fill_up(opened)
