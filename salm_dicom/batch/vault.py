"""The vault: what stays in the hospital. Ledger, protector, and the way back, by series."""

from __future__ import annotations

import fcntl
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.restore import Kept, keep
from salm_dicom.dicom.series import make_private
from salm_dicom.errors import Locked, MismatchError
from salm_dicom.volume import Integers


@dataclass(frozen=True, slots=True)
class Vault:
    """A folder of mode 0700 beside the output; never inside it."""

    folder: Path

    @property
    def ledger(self) -> Path:
        """SQLite file with one row for each series."""
        return self.folder / "ledger.sqlite"

    @property
    def protector(self) -> Path:
        """Folder of the protector this output was made with."""
        return self.folder / "protector"

    def kept(self, name: str) -> Path:
        """Return the file with what the restoration of one series needs."""
        return self.folder / "kept" / f"{name.replace('/', '_')}.npz"

    def create(self) -> None:
        """Make the folders."""
        for folder in (self.folder, self.folder / "kept"):
            make_private(folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the vault for one run.

        Raises
        ------
        Locked
            Another run holds it.
        """
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise Locked(
                "another run is writing to this output; wait until it has ended"
            ) from error
        try:
            yield
        finally:
            os.close(descriptor)


class KeptWriter:
    """Collects what a series' restoration needs, and writes it: a bit and a number a change."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def add(self, source: Part10, sop_uid: str, delta: Integers) -> None:
        """Remember a source instance and its change, (rows, columns), by the derived UID."""
        kept = keep(source, delta)
        changed = delta != 0
        self._arrays |= {
            f"{sop_uid}.where": np.packbits(changed),
            f"{sop_uid}.change": delta.reshape(-1)[np.flatnonzero(changed)],
            f"{sop_uid}.shape": np.array([*delta.shape, kept.pixel_header]),
            f"{sop_uid}.head": np.frombuffer(zlib.compress(kept.head, 1), np.uint8),
            f"{sop_uid}.tail": np.frombuffer(zlib.compress(kept.tail, 1), np.uint8),
            f"{sop_uid}.sha256": np.frombuffer(bytes.fromhex(kept.sha256), np.uint8),
        }

    def write(self, path: Path) -> None:
        """Write them to a file of mode 0600, atomically."""
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, **self._arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)


def read_kept(path: Path) -> dict[str, Kept]:
    """Return what is needed to restore each instance of a series, by its derived UID.

    Raises
    ------
    MismatchError
        The file is missing or damaged.
    """
    found: dict[str, Kept] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                uid, _, name = key.rpartition(".")
                if name == "where":
                    found[uid] = _kept(arrays, uid)
    except (OSError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise MismatchError(
            f"what the vault keeps of a series cannot be read ({type(error).__name__})"
        ) from error
    return found


def _kept(arrays: Mapping[str, NDArray[Any]], uid: str) -> Kept:
    rows, columns, pixel_header = arrays[f"{uid}.shape"].tolist()
    where = np.unpackbits(arrays[f"{uid}.where"], count=rows * columns).astype(bool)
    delta = np.zeros(rows * columns, dtype=np.int32)
    delta[where] = arrays[f"{uid}.change"]
    return Kept(
        head=zlib.decompress(arrays[f"{uid}.head"].tobytes()),
        tail=zlib.decompress(arrays[f"{uid}.tail"].tobytes()),
        pixel_header=pixel_header,
        sha256=arrays[f"{uid}.sha256"].tobytes().hex(),
        delta=delta.reshape(rows, columns),
    )
