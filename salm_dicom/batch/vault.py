"""The vault: what stays in the hospital. Ledger, protector, and the way back, by series."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.batch.uids import write_uids
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.restore import Kept, KeptObject, keep
from salm_dicom.errors import MismatchError
from salm_dicom.folder import atomic, locked, make_private, working
from salm_dicom.volume import Integers

T = TypeVar("T")


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

    @property
    def images(self) -> Path:
        """CSV file that says which NIfTI file of the source each folder of the output is."""
        return self.folder / "nifti.csv"

    def kept_object(self, name: str) -> Path:
        """Return the file with what the restoration of one object needs."""
        return self.folder / "kept" / f"{name.replace('/', '_')}.object"

    def rejected(self, name: str) -> Path:
        """Return the folder of a series that a reviewer rejected; the output has it no more."""
        return self.folder / "rejected" / name.replace("/", "_")

    @property
    def uids(self) -> Path:
        """SQLite file with the new UID of everything that this run changes."""
        return self.folder / "uids.sqlite"

    @property
    def deidentify_key(self) -> Path:
        """File with the secret of pseudonyms and UIDs, where the output is de-identified."""
        return self.folder / "deidentify.key"

    @property
    def catalog(self) -> Path:
        """SQLite file with what the last run found in the source."""
        return self.folder / "catalog.sqlite"

    @property
    def begun(self) -> Path:
        """Folder with a mark for each job that has begun and not ended, where a worker can die."""
        return self.folder / "begun"

    def create(self) -> None:
        """Make the folders, and a table of new UIDs with nothing in it yet."""
        for folder in (self.folder, self.folder / "kept"):
            make_private(folder)
        if not self.uids.exists():
            write_uids(self.uids, ())

    def locked(self) -> AbstractContextManager[None]:
        """Hold the vault for one run, see `folder.locked`."""
        return locked(self.folder, "this output")

    def working(self) -> AbstractContextManager[None]:
        """Say that a worker is writing, see `folder.working`."""
        return working(self.folder)


class KeptWriter:
    """Collects what a series' restoration needs, and writes it: a bit and a number a change.

    One array holds the same thing of all instances, end to end: a zip entry for each of them
    would cost more than its content.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[str, Kept]] = []
        self._where: list[NDArray[np.uint8]] = []
        self._change: list[Integers] = []

    def add(self, source: Part10, sop_uid: str, delta: Integers) -> None:
        """Remember a source instance and its change, by the derived UID."""
        changed = delta != 0
        self._where.append(np.packbits(changed))
        self._change.append(delta[changed])
        self._kept.append((sop_uid, keep(source, delta)))

    def write(self, path: Path) -> None:
        """Write them to a file of mode 0600, atomically."""
        kept = [one for _, one in self._kept]
        heads, tails = [one.head for one in kept], [one.tail for one in kept]
        save_arrays(
            path,
            uid=np.array([uid for uid, _ in self._kept]),
            sha256=np.array([one.sha256 for one in kept]),
            shape=np.array([one.delta.shape for one in kept]),
            pixel_header=np.array([one.pixel_header for one in kept]),
            changes=np.array([len(one) for one in self._change]),
            where=np.concatenate(self._where),
            change=np.concatenate(self._change),
            head_bytes=np.array([len(head) for head in heads]),
            heads=_packed(heads),
            tail_bytes=np.array([len(tail) for tail in tails]),
            tails=_packed(tails),
        )


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays to an npz file of mode 0600, atomically."""
    with atomic(path) as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


def write_kept_object(path: Path, kept: KeptObject) -> None:
    """Write what the restoration of an object needs to a file of mode 0600, atomically."""
    about = {"tag": kept.tag, "sha256": kept.sha256, "head": len(kept.head)}
    with atomic(path) as stream:
        stream.write(json.dumps(about).encode() + b"\n")
        stream.write(zlib.compress(kept.head + kept.tail, 1))


def read_kept_object(path: Path) -> KeptObject:
    """Return what is needed to restore an object.

    Raises
    ------
    MismatchError
        The file is missing or damaged.
    """
    try:
        first, _, packed = path.read_bytes().partition(b"\n")
        about, data = json.loads(first), zlib.decompress(packed)
        head, tag, sha256 = int(about["head"]), int(about["tag"]), str(about["sha256"])
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        raise MismatchError(
            f"what the vault keeps of an object cannot be read ({type(error).__name__})"
        ) from error
    return KeptObject(head=data[:head], tail=data[head:], tag=tag, sha256=sha256)


def _packed(parts: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(b"".join(parts), 1), np.uint8)


def read_arrays(path: Path, understand: Callable[[Mapping[str, NDArray[Any]]], T]) -> T:
    """Return what `understand` makes of the arrays that `save_arrays` wrote.

    Raises
    ------
    MismatchError
        The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return understand({name: arrays[name] for name in arrays.files})
    except (OSError, ValueError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise MismatchError(
            f"what the vault keeps of a series cannot be read ({type(error).__name__})"
        ) from error


def read_kept(path: Path) -> dict[str, Kept]:
    """Return what is needed to restore each instance of a series, by its derived UID.

    Raises
    ------
    MismatchError
        The file is missing or damaged.
    """
    return read_arrays(path, _kept)


def _kept(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Kept]:
    voxels = arrays["shape"].prod(axis=1)
    rows = zip(
        arrays["uid"].tolist(),
        arrays["sha256"].tolist(),
        arrays["shape"].tolist(),
        arrays["pixel_header"].tolist(),
        _cut(zlib.decompress(arrays["heads"].tobytes()), arrays["head_bytes"]),
        _cut(zlib.decompress(arrays["tails"].tobytes()), arrays["tail_bytes"]),
        _cut(arrays["where"], (voxels + 7) // 8),
        _cut(arrays["change"], arrays["changes"]),
        strict=True,
    )
    found: dict[str, Kept] = {}
    for uid, sha256, shape, pixel_header, head, tail, where, change in rows:
        delta = np.zeros(shape, dtype=np.int32)
        delta[np.unpackbits(where, count=delta.size).astype(bool).reshape(shape)] = change
        found[uid] = Kept(
            head=head, tail=tail, pixel_header=pixel_header, sha256=sha256, delta=delta
        )
    return found


def _cut(whole: Any, sizes: NDArray[Any]) -> list[Any]:
    """Return consecutive parts of a sequence, of the given sizes."""
    ends = np.cumsum(sizes).tolist()
    if ends[-1] != len(whole):
        raise ValueError("parts do not make the whole")
    return [whole[end - size : end] for end, size in zip(ends, sizes.tolist(), strict=True)]
