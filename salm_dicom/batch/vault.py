"""The vault: what stays in the hospital. Ledger, protector, and the way back, by series."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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

    def delta(self, name: str) -> Path:
        """Return the file with the changes of one series."""
        return self.folder / "deltas" / f"{name.replace('/', '_')}.npz"

    def create(self) -> None:
        """Make the folders."""
        for folder in (self.folder, self.folder / "deltas"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

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


class DeltaWriter:
    """Collects the changes of a series and writes them sparsely: a bit and a number for each."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.generic]] = {}

    def add(self, source: Path, sop_uid: str, delta: Integers) -> None:
        """Remember the change of one instance, (rows, columns)."""
        changed = delta != 0
        values = delta.reshape(-1)[np.flatnonzero(changed)]
        small = not len(values) or np.abs(values).max() < 128
        self._arrays[f"{sop_uid}.where"] = np.packbits(changed)
        self._arrays[f"{sop_uid}.change"] = values.astype(np.int8 if small else np.int32)
        self._arrays[f"{sop_uid}.shape"] = np.array(delta.shape)

    def write(self, path: Path) -> None:
        """Write them to a file of mode 0600, atomically."""
        partial = path.with_suffix(".partial")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, **self._arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        partial.rename(path)


def read_deltas(path: Path) -> dict[str, Integers]:
    """Return the change of each derived instance by its SOP Instance UID, int32 (rows, columns)."""
    found: dict[str, Integers] = {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                if key.endswith(".where"):
                    uid = key.removesuffix(".where")
                    shape = tuple(arrays[f"{uid}.shape"])
                    where = np.unpackbits(arrays[key], count=int(np.prod(shape))).astype(bool)
                    delta = np.zeros(where.shape, dtype=np.int32)
                    delta[where] = arrays[f"{uid}.change"]
                    found[uid] = delta.reshape(shape)
    except (OSError, ValueError, KeyError) as error:
        raise MismatchError(
            f"the vault's changes of a series cannot be read ({type(error).__name__})"
        ) from error
    return found
