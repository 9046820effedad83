"""Restore without a vault: the sources of protected instances from their own envelopes."""

from __future__ import annotations

from pathlib import Path

from salm_dicom.batch.manifest import MANIFEST
from salm_dicom.batch.places import check_target
from salm_dicom.batch.restore import Progress, Restored, write_new
from salm_dicom.dicom.envelope import Key
from salm_dicom.dicom.index import INDEX
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.recovery import recovered
from salm_dicom.dicom.restore import restored
from salm_dicom.errors import InputError, MismatchError, PlanError


def recover(output: Path, key: Key, target: Path, progress: Progress = lambda *_: None) -> Restored:
    """Write the source of every file in `output` that has an envelope for `key` to `target`.

    Raises
    ------
    PlanError, UnsafeError
        A folder is missing, not empty, or inside another.
    """
    if not output.is_dir():
        raise PlanError("OUT is no folder; give the folder of a protected export")
    check_target(output, target, target.with_name(f"{target.name}.none"))
    paths = [
        p for p in sorted(output.rglob("*")) if p.is_file() and p.name not in (MANIFEST, INDEX)
    ]
    identical = recompressed = 0
    failed: list[tuple[Path, str]] = []
    for count, path in enumerate(paths):
        progress("restore", count, len(paths))
        try:
            protected = read(path)
            data, is_source = restored(protected, recovered(protected, key))
        except (InputError, MismatchError) as error:
            failed.append((path, f"{error.code}: {error}"))
            continue
        write_new(target / path.relative_to(output), data)
        identical, recompressed = identical + is_source, recompressed + (not is_source)
    progress("restore", len(paths), len(paths))
    return Restored(identical=identical, recompressed=recompressed, failed=tuple(failed))
