"""Ledger: which series and objects of an output are done, and when its run began; in the vault."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from salm_dicom.errors import DiskFull, UnsafeError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS series (
    source TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, slices INTEGER NOT NULL,
    code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    record TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS objects (
    source TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, slices INTEGER NOT NULL,
    code TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '',
    record TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS settled (source TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS reviews (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, decision TEXT NOT NULL, document TEXT NOT NULL
);
"""
_COLUMNS = "source, name, slices, code, reason, record, done"
_PAGE = 256
# Series of images; and objects, one row each (`slices` is 1, `record` what they are).
Table = Literal["series", "objects"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What the ledger knows of one series; `record` is JSON, empty while it is not done."""

    source: str
    name: str
    slices: int
    code: str
    reason: str
    record: str
    done: bool


@contextmanager
def says_full() -> Iterator[None]:
    """Raise `DiskFull` where SQLite has no room left."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise DiskFull(
            "no space left for the vault; make room and run the same command again"
        ) from error


class Ledger:
    """One output's rows; every change is a transaction that survives a kill."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Ledger]:
        """Open or make the ledger."""
        connection = sqlite3.connect(path)
        path.chmod(0o600)
        try:
            with says_full():
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=FULL")
                connection.executescript(_SCHEMA)
                yield cls(connection)
        finally:
            connection.close()

    def begin(self, digest: str, created: datetime) -> datetime:
        """Return when the first run began; remember digest and time if this is it.

        Raises
        ------
        UnsafeError
            The output was begun with other settings.
        """
        with self._connection as transaction:
            known = dict(transaction.execute("SELECT key, value FROM run"))
            if known and known["digest"] != digest:
                raise UnsafeError(
                    "the output was begun with other settings or another protector; "
                    "use a new output folder, or the settings of the first run"
                )
            if not known:
                rows = [("digest", digest), ("created", created.isoformat())]
                transaction.executemany("INSERT INTO run VALUES (?, ?)", rows)
        return datetime.fromisoformat(known["created"]) if known else created

    def rows(self, table: Table = "series") -> Iterator[Row]:
        """Yield every row, by name; the table may change meanwhile."""
        query = f"SELECT {_COLUMNS} FROM {table} WHERE name > ? ORDER BY name LIMIT ?"
        last = ""
        while rows := self._connection.execute(query, (last, _PAGE)).fetchall():
            yield from map(_row, rows)
            last = rows[-1][1]

    def below(self, place: str) -> list[Row]:
        """Return the rows of series that are `place` in the output, or in that folder."""
        query = f"SELECT {_COLUMNS} FROM series WHERE name = ? OR (name > ? AND name < ?)"
        ends = (place, f"{place}/", f"{place}0")  # "0" is the character after "/"
        return list(map(_row, self._connection.execute(f"{query} ORDER BY name", ends)))

    def note_review(self, name: str, decision: str, document: str) -> None:
        """Add a review of a series, unless it is the last that was added for it."""
        query = "SELECT document FROM reviews WHERE name = ? ORDER BY number DESC LIMIT 1"
        with self._connection as transaction:
            if transaction.execute(query, (name,)).fetchone() != (document,):
                transaction.execute(
                    "INSERT INTO reviews (name, decision, document) VALUES (?, ?, ?)",
                    (name, decision, document),
                )

    def reviewed(self) -> dict[str, str]:
        """Return the last decision on each series that was accepted or rejected, by name."""
        query = "SELECT name, decision FROM reviews WHERE decision != 'comment' ORDER BY number"
        return dict(self._connection.execute(query))

    def row(self, source: str, table: Table = "series") -> Row | None:
        """Return what is known of a series or object."""
        query = f"SELECT {_COLUMNS} FROM {table} WHERE source = ?"
        found = self._connection.execute(query, (source,)).fetchone()
        return None if found is None else _row(found)

    def is_done(self, source: str, table: Table = "series") -> bool:
        """Return whether a series or object is in the output, as far as the ledger knows."""
        query = f"SELECT 1 FROM {table} WHERE source = ? AND done"
        return self._connection.execute(query, (source,)).fetchone() is not None

    def owns(self, place: str) -> bool:
        """Return whether a file or folder at the top of the output is of a row."""
        query = "SELECT 1 FROM {} WHERE name = ? OR (name > ? AND name < ?) LIMIT 1"
        values = (place, f"{place}/", f"{place}0")  # "0" is the character after "/"
        return any(
            self._connection.execute(query.format(table), values).fetchone()
            for table in ("series", "objects")
        )

    def was_settled(self) -> bool:
        """Return whether references in the output were ever set right."""
        return self._connection.execute("SELECT 1 FROM settled LIMIT 1").fetchone() is not None

    def is_settled(self, source: str) -> bool:
        """Return whether references in the output take a row for done."""
        query = "SELECT 1 FROM settled WHERE source = ?"
        return self._connection.execute(query, (source,)).fetchone() is not None

    def settle(self) -> None:
        """Note that references in the output take for done what is done."""
        with self._connection as transaction:
            transaction.execute("DELETE FROM settled")
            transaction.execute(
                "INSERT OR IGNORE INTO settled SELECT source FROM series WHERE done "
                "UNION ALL SELECT source FROM objects WHERE done"
            )

    def plan(self, rows: Iterable[tuple[str, str, int]], *, table: Table = "series") -> None:
        """Add what is to be written, as source, name and slices, unless it is there.

        All of it in one transaction: each waits for the disk.
        """
        with self._connection as transaction:
            transaction.executemany(
                f"INSERT OR IGNORE INTO {table} (source, name, slices) VALUES (?, ?, ?)", rows
            )

    def finish(
        self,
        source: str,
        *,
        record: str = "",
        code: str = "",
        reason: str = "",
        table: Table = "series",
    ) -> None:
        """Note that a series or object is done, or left out with a code."""
        with self._connection as transaction:
            transaction.execute(
                f"UPDATE {table} SET record = ?, code = ?, reason = ?, done = ? WHERE source = ?",
                (record, code, reason, not code, source),
            )


def _row(found: tuple[Any, ...]) -> Row:
    source, name, slices, code, reason, record, done = found
    return Row(
        source=source,
        name=name,
        slices=slices,
        code=code,
        reason=reason,
        record=record,
        done=bool(done),
    )
