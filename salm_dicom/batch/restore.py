"""Restore: the source instances of a protected export, from the vault."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import MANIFEST
from salm_dicom.batch.nifti import PREFIX, restore_file
from salm_dicom.batch.places import check_target
from salm_dicom.batch.vault import Vault, read_kept, read_kept_object
from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.index import INDEX
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.restore import restored, restored_object
from salm_dicom.errors import InputError, MismatchError, PlanError
from salm_dicom.folder import make_private

Progress = Callable[[str, int, int], None]
_NAMES = ("image.nii", "image.nii.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What came of a restoration.

    Parameters
    ----------
    identical
        Files that are the source's, byte for byte.
    recompressed
        Files whose stored values are the source's, compressed anew.
    failed
        Files of the output that could not be restored, with the reason.
    """

    identical: int
    recompressed: int
    failed: tuple[tuple[Path, str], ...]


def restore(
    output: Path, vault_folder: Path, target: Path, progress: Progress = lambda *_: None
) -> Restored:
    """Write the source of every protected instance in `output` to a new folder `target`.

    Raises
    ------
    PlanError, UnsafeError
        A folder is missing, not empty, or inside another.
    """
    vault = Vault(vault_folder)
    if not vault.ledger.exists():
        raise PlanError("the vault has no ledger; give the vault that the output was made with")
    check_target(output, target, vault_folder)
    with Ledger.open(vault.ledger) as ledger:
        rows = [row for row in ledger.rows() if row.done]
        objects = [row.name for row in ledger.rows("objects") if row.done]
    identical = recompressed = 0
    failed: list[tuple[Path, str]] = []
    known: set[Path] = {output / MANIFEST, output / INDEX}
    for count, row in enumerate(rows):
        progress("restore", count, len(rows))
        if row.name.startswith(PREFIX):
            known |= {output / row.name / name for name in ("image.json", *_NAMES)}
            outcome = _restored_image(output, row.name, vault, target)
            if isinstance(outcome, str):
                failed.append((output / row.name, outcome))
            else:
                identical, recompressed = identical + outcome, recompressed + (not outcome)
            continue
        kept = read_kept(vault.kept(row.name))
        for path in sorted(p for p in (output / row.name).glob("*") if p.is_file()):
            known.add(path)
            try:
                protected = read(path)
                uid = identity_of(protected).sop_uid
                if uid not in kept:
                    raise MismatchError("the vault keeps nothing of this instance")
                data, is_source = restored(protected, kept.pop(uid))
            except (InputError, MismatchError) as error:
                failed.append((path, f"{error.code}: {error}"))
                continue
            write_new(target / path.relative_to(output), data)
            identical, recompressed = identical + is_source, recompressed + (not is_source)
        failed += [(output / row.name, "a protected instance is missing")] * len(kept)
    for name in objects:
        known.add(output / name)
        try:
            data = _object(output / name, vault.kept_object(name))
        except (InputError, MismatchError) as error:
            failed.append((output / name, f"{error.code}: {error}"))
            continue
        write_new(target / name, data)
        identical += 1
    progress("restore", len(rows), len(rows))
    strange = [p for p in sorted(output.rglob("*")) if p.is_file() and p not in known]
    failed += [(path, "is not from a run with this vault") for path in strange]
    return Restored(identical=identical, recompressed=recompressed, failed=tuple(failed))


def _restored_image(output: Path, name: str, vault: Vault, target: Path) -> bool | str:
    """Restore a NIfTI file; return whether it is the file on disk byte for byte, or why not."""
    paths = [path for n in _NAMES if (path := output / name / n).is_file()]
    if len(paths) != 1:
        return "a protected image is missing"
    try:
        data, is_source = restore_file(paths[0], vault.kept(name))
    except (InputError, MismatchError) as error:
        return f"{error.code}: {error}"
    write_new(target / paths[0].relative_to(output), data)
    return is_source


def _object(path: Path, kept: Path) -> bytes:
    """Return the source of a copied object; it is the source file or a `MismatchError`."""
    if not path.is_file():
        raise MismatchError("a copied object is missing")
    return restored_object(read(path), read_kept_object(kept))


def write_new(path: Path, data: bytes) -> None:
    """Write a private file that must not be there yet."""
    make_private(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
