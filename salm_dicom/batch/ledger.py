"""Ledger: which series and objects of an output are done, and when its run began; in the vault."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from salm_dicom.errors import UnsafeError

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

    def rows(self, table: Table = "series") -> dict[str, Row]:
        """Return every row by its source."""
        columns = "source, name, slices, code, reason, record, done"
        query = f"SELECT {columns} FROM {table} ORDER BY name"
        return {
            source: Row(
                source=source,
                name=name,
                slices=slices,
                code=code,
                reason=reason,
                record=record,
                done=bool(done),
            )
            for source, name, slices, code, reason, record, done in self._connection.execute(query)
        }

    def below(self, place: str) -> list[Row]:
        """Return the rows of series that are `place` in the output, or in that folder."""
        columns = "source, name, slices, code, reason, record, done"
        query = f"SELECT {columns} FROM series WHERE name = ? OR (name > ? AND name < ?)"
        ends = (place, f"{place}/", f"{place}0")  # "0" is the character after "/"
        return [
            Row(
                source=source,
                name=name,
                slices=slices,
                code=code,
                reason=reason,
                record=record,
                done=bool(done),
            )
            for source, name, slices, code, reason, record, done in self._connection.execute(
                f"{query} ORDER BY name", ends
            )
        ]

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

    def settled(self) -> set[str]:
        """Return the rows that the references in the output take for done."""
        query = self._connection.execute("SELECT source FROM settled")
        return {str(source) for (source,) in query}

    def settle(self, sources: Iterable[str]) -> None:
        """Note the rows that the references in the output now take for done."""
        with self._connection as transaction:
            transaction.execute("DELETE FROM settled")
            rows = [(source,) for source in sources]
            transaction.executemany("INSERT INTO settled VALUES (?)", rows)

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
