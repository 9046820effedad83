"""Names in the output: counters of patient, study and series; never UIDs or patient data.

Patients and studies that are known keep their numbers, so that an export which has grown can be
protected into the same output. All of it is asked of tables beside the catalog.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.nifti import PREFIX
from salm_dicom.folder import file_name

# Folders of a patient, a study and a series; on media (PS3.10 8.5) names have eight characters.
_FOLDERS = "patient-%04d/study-%02d/series-%03d"
_MEDIA_FOLDERS = "PT%06d/ST%06d/SE%06d"
# `unit`: what gets a folder of its own, and whose it is; numbers where the folder is known.
# `taken`: the numbers of every folder that the output has or had. `place`: what comes of it.
# `last`: the highest number of an object in a folder.
_SCHEMA = """
CREATE TABLE unit (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, patient_id TEXT, study_uid TEXT,
    p INTEGER, s INTEGER, n INTEGER
);
CREATE TABLE taken (p INTEGER, s INTEGER, n INTEGER, PRIMARY KEY (p, s, n)) WITHOUT ROWID;
CREATE TABLE patient (patient_id TEXT PRIMARY KEY, p INTEGER) WITHOUT ROWID;
CREATE TABLE study (
    patient_id TEXT, study_uid TEXT, p INTEGER, s INTEGER, PRIMARY KEY (patient_id, study_uid)
) WITHOUT ROWID;
CREATE TABLE place (key TEXT PRIMARY KEY, p INTEGER, s INTEGER, n INTEGER) WITHOUT ROWID;
CREATE TABLE last (folder TEXT PRIMARY KEY, number INTEGER) WITHOUT ROWID;
"""
# Where rows contradict each other the last one wins.
_NUMBERED = """
INSERT OR REPLACE INTO patient SELECT patient_id, p FROM unit WHERE n IS NOT NULL ORDER BY id;
INSERT INTO patient
    SELECT patient_id,
        (SELECT coalesce(max(p), 0) FROM taken) + row_number() OVER (ORDER BY min(id))
    FROM unit WHERE patient_id NOT IN (SELECT patient_id FROM patient) GROUP BY patient_id;
INSERT OR REPLACE INTO study
    SELECT patient_id, study_uid, p, s FROM unit WHERE n IS NOT NULL ORDER BY id;
INSERT INTO study
    SELECT u.patient_id, u.study_uid, q.p,
        (SELECT coalesce(max(s), 0) FROM taken AS t WHERE t.p = q.p)
        + row_number() OVER (PARTITION BY q.p ORDER BY min(u.id))
    FROM unit AS u JOIN patient AS q USING (patient_id)
    WHERE NOT EXISTS (
        SELECT 1 FROM study AS k WHERE k.patient_id = u.patient_id AND k.study_uid = u.study_uid
    )
    GROUP BY u.patient_id, u.study_uid;
INSERT INTO place SELECT key, p, s, n FROM unit WHERE n IS NOT NULL;
INSERT INTO place
    SELECT u.key, k.p, k.s,
        (SELECT coalesce(max(n), 0) FROM taken AS t WHERE t.p = k.p AND t.s = k.s)
        + row_number() OVER (PARTITION BY k.p, k.s ORDER BY u.id)
    FROM unit AS u JOIN study AS k USING (patient_id, study_uid) WHERE u.n IS NULL;
"""


def for_media(catalog: Catalog, ledger: Ledger) -> bool:
    """Return whether an output's names are those that a DICOMDIR can hold.

    They are where the source has a DICOMDIR, and stay what the first run made them.
    """
    known = next((row for row in ledger.rows() if not row.name.startswith(PREFIX)), None)
    return known.name.startswith("PT") if known else bool(catalog.indexes())


def plan_names(catalog: Catalog, ledger: Ledger) -> None:
    """Give every series, NIfTI file and object of the export that is new its place in the output.

    Objects of one series share a folder; folders of objects come after those of images.
    """
    pattern = _MEDIA_FOLDERS if for_media(catalog, ledger) else _FOLDERS
    ledger.plan(_new_images(catalog, ledger))
    tables = catalog.connection
    tables.executescript(_SCHEMA)
    tables.executemany("INSERT OR IGNORE INTO taken VALUES (?, ?, ?)", _taken(ledger))
    sql = (
        "INSERT OR IGNORE INTO unit (key, patient_id, study_uid, p, s, n) VALUES (?, ?, ?, ?, ?, ?)"
    )
    tables.executemany(sql, _units(catalog, ledger))
    tables.executescript(_NUMBERED)
    ledger.plan(_series(catalog, pattern))
    ledger.plan(_objects(catalog, ledger, pattern), table="objects")
    for table in ("unit", "taken", "patient", "study", "place", "last"):
        tables.execute(f"DROP TABLE {table}")


def _new_images(catalog: Catalog, ledger: Ledger) -> Iterator[tuple[str, str, int]]:
    """Yield what the ledger is told of each NIfTI file that it does not know."""
    known = (row.name for row in ledger.rows() if row.name.startswith(PREFIX))
    number = max((int(name.removeprefix(PREFIX)) for name in known), default=0)
    for _, key, images in catalog.pages("key, images", where="is_in AND kind = 'nifti'"):
        if ledger.row(key) is None:
            number += 1
            yield key, f"{PREFIX}{number:04d}", images


def _taken(ledger: Ledger) -> Iterator[tuple[int, ...]]:
    for row in ledger.rows():
        if not row.name.startswith(PREFIX):
            yield _numbers(row.name)
    for row in ledger.rows("objects"):
        yield _numbers(_folder(row.name))


def _units(catalog: Catalog, ledger: Ledger) -> Iterator[tuple[object, ...]]:
    """Yield what gets a folder, with its numbers where it is known."""
    dicom = catalog.pages("key, patient_id, study_uid", where="is_in AND kind = 'dicom'")
    for _, key, patient, study in dicom:
        row = ledger.row(key)
        yield key, patient, study, *(_numbers(row.name) if row else (None,) * 3)
    # of the objects of one series, the last that is known says where they are
    folders = catalog.pages("key, patient_id, study_uid, series_uid", "objects")
    last: tuple[object, ...] | None = None
    for _, key, patient, study, series in folders:
        row = ledger.row(key, "objects")
        numbers = _numbers(_folder(row.name)) if row else (None,) * 3
        unit = (_object_key(study, series), patient, study)
        if last is not None and last[0] != unit[0]:
            yield last
        keeps = last is not None and last[0] == unit[0] and numbers[0] is None
        last = last if keeps else (*unit, *numbers)
    if last is not None:
        yield last


def _series(catalog: Catalog, pattern: str) -> Iterator[tuple[str, str, int]]:
    """Yield what the ledger is told of each DICOM series."""
    for _, key, images in catalog.pages("key, images", where="is_in AND kind = 'dicom'"):
        yield key, pattern % _placed(catalog.connection, key), images


def _objects(catalog: Catalog, ledger: Ledger, pattern: str) -> Iterator[tuple[str, str, int]]:
    """Yield what the ledger is told of each object that it does not know."""
    tables = catalog.connection
    known = ((_folder(row.name), _number(row.name)) for row in ledger.rows("objects"))
    sql = (
        "INSERT INTO last VALUES (?, ?) "
        "ON CONFLICT (folder) DO UPDATE SET number = max(number, excluded.number)"
    )
    tables.executemany(sql, known)
    for _, key, study, series in catalog.pages("key, study_uid, series_uid", "objects"):
        if ledger.row(key, "objects") is None:
            folder = pattern % _placed(tables, _object_key(study, series))
            found = tables.execute("SELECT number FROM last WHERE folder = ?", (folder,)).fetchone()
            number = 1 + (found[0] if found else 0)
            tables.execute("INSERT OR REPLACE INTO last VALUES (?, ?)", (folder, number))
            yield key, f"{folder}/{file_name(folder, number)}", 1


def _placed(tables: sqlite3.Connection, key: str) -> tuple[int, ...]:
    found: tuple[int, ...] = tables.execute(
        "SELECT p, s, n FROM place WHERE key = ?", (key,)
    ).fetchone()
    return found


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _object_key(study_uid: str, series_uid: str) -> str:
    return f"objects {study_uid}/{series_uid}"


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name.rpartition("/")[2])[0])


def _numbers(folder: str) -> tuple[int, ...]:
    return tuple(_number(part) for part in folder.split("/"))
