"""Catalog: what an export holds, in SQLite, so that memory does not grow with the export.

Every file is read once. What needs all files (copies of an instance, which files make a volume,
the order of the series) is asked of the table.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from salm_dicom.batch.ledger import says_full
from salm_dicom.batch.packing import Row, packed, unpacked
from salm_dicom.dicom.geometry import Stack
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import LeftOut, SeriesFiles
from salm_dicom.nifti.scan import NiftiFile

AnySeries = SeriesFiles | NiftiFile
# In order of `id`, series and objects are as they are shown and named.
_SCHEMA = """
CREATE TABLE files (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, sop_uid TEXT NOT NULL, volume BLOB, header TEXT
);
CREATE TABLE found (
    key TEXT PRIMARY KEY, patient_id TEXT, study_uid TEXT, series_uid TEXT, along REAL,
    number INTEGER, sop_uid TEXT, images INTEGER, members TEXT, about TEXT
) WITHOUT ROWID;
CREATE TABLE found_objects (
    key TEXT PRIMARY KEY, patient_id TEXT, study_uid TEXT, series_uid TEXT, header TEXT
) WITHOUT ROWID;
CREATE TABLE series (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, patient_id TEXT,
    study_uid TEXT, images INTEGER NOT NULL, members TEXT, about TEXT NOT NULL,
    is_in INTEGER NOT NULL DEFAULT 1, is_labelled INTEGER NOT NULL DEFAULT 0, label TEXT
);
CREATE TABLE objects (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, patient_id TEXT, study_uid TEXT,
    series_uid TEXT, header TEXT NOT NULL, is_in INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE mapped (uid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE images (place BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE indexes (path BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE left_out (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL, code TEXT, reason TEXT, frames TEXT
);
"""
_ENTRY = "key, members, about, label"
_PAGE = 256


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One series of the catalog: its place in the order, its key in the ledger, its label.

    `load` returns its files, from the catalog while that is open.
    """

    number: int
    key: str
    label: str | None
    load: Callable[[], AnySeries]

    @cached_property
    def series(self) -> AnySeries:
        """Its files, read when they are first asked for."""
        return self.load()


class Catalog:
    """What an export holds; made anew by every scan, kept with the vault or nowhere."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    @classmethod
    @contextmanager
    def new(cls, path: Path | None = None) -> Iterator[Catalog]:
        """Open an empty catalog: a file of mode 0600, or a temporary one that nobody can see."""
        if path is not None:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600)
        with cls._opened("" if path is None else str(path)) as catalog:
            catalog.connection.executescript(_SCHEMA)
            yield catalog
            catalog.connection.commit()

    @classmethod
    @contextmanager
    def of(cls, path: Path) -> Iterator[Catalog]:
        """Open a catalog to read it."""
        with cls._opened(f"{path.absolute().as_uri()}?mode=ro") as catalog:
            yield catalog

    @classmethod
    @contextmanager
    def _opened(cls, name: str) -> Iterator[Catalog]:
        connection = sqlite3.connect(name, uri=True)
        try:
            with says_full():
                for setting in ("synchronous=OFF", "journal_mode=OFF", "cache_size=-4000"):
                    connection.execute(f"PRAGMA {setting}")
                yield cls(connection)
        finally:
            connection.close()

    def add(self, rows: Iterable[Row]) -> None:
        """Add images and objects, as `row_of` made rows of them."""
        sql = "INSERT INTO files (kind, sop_uid, volume, header) VALUES (?, ?, ?, ?)"
        self.connection.executemany(sql, rows)

    def add_index(self, path: Path) -> None:
        """Add a DICOMDIR."""
        self.connection.execute("INSERT INTO indexes VALUES (?)", (os.fsencode(path),))

    def note_image(self, path: Path) -> None:
        """Note a file whose name says NIfTI, to be looked at later."""
        place = os.fsencode(path).replace(b"/", b"\0")  # sorts as paths do, part by part
        self.connection.execute("INSERT INTO images VALUES (?)", (place,))

    def images(self) -> Iterator[Path]:
        """Yield the files whose names say NIfTI, ordered by path."""
        last = b""
        query = "SELECT place FROM images WHERE place > ? ORDER BY place LIMIT ?"
        while rows := self.connection.execute(query, (last, _PAGE)).fetchall():
            yield from (Path(os.fsdecode(place.replace(b"\0", b"/"))) for (place,) in rows)
            (last,) = rows[-1]

    def add_nifti(self, file: NiftiFile) -> bool:
        """Add a NIfTI file; return False when a copy of it is there already."""
        row = (file.key, file.images, packed(file))
        sql = "INSERT OR IGNORE INTO series (key, kind, images, about) VALUES (?, 'nifti', ?, ?)"
        return bool(self.connection.execute(sql, row).rowcount)

    def leave_out(self, entries: Iterable[LeftOut]) -> None:
        """Add files that stay outside, with the code that says why."""
        rows = ((os.fsencode(one.path), one.code, one.reason, one.frames) for one in entries)
        sql = "INSERT INTO left_out (path, code, reason, frames) VALUES (?, ?, ?, ?)"
        self.connection.executemany(sql, rows)

    def explain(self, path: Path, was: str, code: str, reason: str) -> None:
        """Give a file that is left out with the code `was` another one."""
        sql = "UPDATE left_out SET code = ?, reason = ? WHERE path = ? AND code = ?"
        self.connection.execute(sql, (code, reason, os.fsencode(path), was))

    def headers(self, members: str) -> Iterator[InstanceHeader]:
        """Yield the headers of images by their numbers, a JSON array, in its order."""
        for header in self._members("header", members):
            yield unpacked(header, InstanceHeader)

    def uids(self, number: int) -> tuple[list[str], str]:
        """Return the UIDs of the instances of a DICOM series, in order, and its own."""
        query = "SELECT members FROM series WHERE id = ?"
        (members,) = self.connection.execute(query, (number,)).fetchone()
        return list(self._members("sop_uid", members)), self._first(members).series_uid

    def _first(self, members: str) -> InstanceHeader:
        return next(self.headers(json.dumps(json.loads(members)[:1])))

    def _members(self, column: str, members: str) -> Iterator[str]:
        query = (
            f"SELECT {column} FROM json_each(?) AS m JOIN files ON files.id = m.value "
            "ORDER BY m.key"
        )
        return (value for (value,) in self.connection.execute(query, (members,)))

    def count(self, table: str = "series", where: str = "is_in") -> int:
        """Return how many series or objects there are."""
        (count,) = self.connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()
        return int(count)

    def pages(
        self, columns: str, table: str = "series", where: str = "is_in"
    ) -> Iterator[tuple[Any, ...]]:
        """Yield rows in order, `id` first; the table may change meanwhile."""
        query = f"SELECT id, {columns} FROM {table} WHERE id > ? AND {where} ORDER BY id LIMIT ?"
        last = 0
        while rows := self.connection.execute(query, (last, _PAGE)).fetchall():
            yield from rows
            last = rows[-1][0]

    def series(self, where: str = "is_in") -> Iterator[Entry]:
        """Yield the series in order: DICOM by patient, study, series, position; then NIfTI."""
        yield from map(self._entry, self.pages(_ENTRY, where=where))

    def entry(self, number: int) -> Entry:
        """Return a series by its place in the order."""
        query = f"SELECT id, {_ENTRY} FROM series WHERE id = ?"
        return self._entry(self.connection.execute(query, (number,)).fetchone())

    def one(self, number: int) -> AnySeries:
        """Return the files of a series by its place in the order."""
        return self.entry(number).series

    def modality(self, number: int) -> str:
        """Return the modality of a series, from its first file."""
        query = "SELECT members, about FROM series WHERE id = ?"
        members, about = self.connection.execute(query, (number,)).fetchone()
        if members is None:
            return unpacked(about, NiftiFile).modality
        return self._first(members).modality

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        number, key, members, about, label = row
        return Entry(number=number, key=key, label=label, load=lambda: self._files(members, about))

    def _files(self, members: str | None, about: str) -> AnySeries:
        if members is None:
            return unpacked(about, NiftiFile)
        affine, irregular, gaps = json.loads(about)
        return SeriesFiles(
            stack=Stack(
                headers=tuple(self.headers(members)),
                affine=np.array(affine),
                irregular=irregular,
                gaps_mm=tuple(gaps),
            )
        )

    def has(self, key: str) -> bool:
        """Return whether a series is in the export."""
        query = "SELECT 1 FROM series WHERE key = ? AND is_in"
        return self.connection.execute(query, (key,)).fetchone() is not None

    def objects(self) -> Iterator[ObjectHeader]:
        """Yield the objects, ordered by patient, study, series."""
        for _, header in self.pages("header", "objects"):
            yield unpacked(header, ObjectHeader)

    def object(self, key: str) -> ObjectHeader | None:
        """Return an object by its SOP Instance UID."""
        query = "SELECT header FROM objects WHERE key = ? AND is_in"
        row = self.connection.execute(query, (key,)).fetchone()
        return None if row is None else unpacked(row[0], ObjectHeader)

    def indexes(self) -> list[Path]:
        """Return the DICOMDIRs."""
        rows = self.connection.execute("SELECT path FROM indexes")
        return [Path(os.fsdecode(path)) for (path,) in rows]

    def left_out(self) -> Iterator[LeftOut]:
        """Yield every file that stays outside, by path."""
        query = "SELECT path, code, reason, frames FROM left_out ORDER BY path, id"
        for path, *what in self.connection.execute(query):
            yield LeftOut(Path(os.fsdecode(path)), *what)

    def frames(self) -> list[str]:
        """Return where errors happened that nobody foresaw."""
        query = "SELECT frames FROM left_out WHERE frames != '' ORDER BY path, id"
        return [where for (where,) in self.connection.execute(query)]

    def drop(self, number: int, table: str, entries: Iterable[LeftOut]) -> None:
        """Leave out a series or an object that is in the catalog."""
        self.connection.execute(f"UPDATE {table} SET is_in = 0 WHERE id = ?", (number,))
        self.leave_out(entries)

    def label_all(self) -> None:
        """Note that all series are to be protected, without labels."""
        self.connection.execute("UPDATE series SET is_labelled = 1")

    def set_label(self, number: int, label: str) -> None:
        """Note that a series is to be protected, with its label."""
        sql = "UPDATE series SET is_labelled = 1, label = ? WHERE id = ?"
        self.connection.execute(sql, (label, number))
