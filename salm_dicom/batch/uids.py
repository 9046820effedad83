"""The new UID of everything that a run changes: a table in the vault, for workers to look up in.

An export has millions of UIDs and a worker asks for some dozens at a time; a table on disk serves
all of them, whatever study or patient a reference leads to.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.uids import new_uid
from salm_dicom.dicom.unchanged import UidPair


def new_uids(
    site_key: bytes, digest: str, instances: Iterable[str], series_uid: str
) -> Iterator[UidPair]:
    """Yield old and new UID of the instances of a series, and of the series."""
    for uid in instances:
        yield uid, new_uid(site_key, digest, "instance", uid)
    yield series_uid, new_uid(site_key, digest, "series", series_uid)


def write_uids(path: Path, pairs: Iterable[UidPair]) -> None:
    """Write old and new UIDs to a file of mode 0600, in place of the one that is there."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    connection = sqlite3.connect(partial)
    try:
        connection.execute("PRAGMA synchronous=OFF")  # made anew by every run
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("CREATE TABLE uids (old TEXT PRIMARY KEY, new TEXT) WITHOUT ROWID")
        connection.executemany("INSERT OR IGNORE INTO uids VALUES (?, ?)", pairs)
        connection.commit()
    finally:
        connection.close()
    partial.rename(path)


@contextmanager
def opened(path: Path) -> Iterator[NewUid]:
    """Give the function that returns the new UID of a source's, or the same where it stays."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    known: dict[str, str] = {}

    def new(uid: str) -> str:
        if uid not in known:
            row = connection.execute("SELECT new FROM uids WHERE old = ?", (uid,)).fetchone()
            known[uid] = uid if row is None else str(row[0])
        return known[uid]

    try:
        yield new
    finally:
        connection.close()
