"""Writes derived instances of small sources, and edits single elements of a file's bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from salm_dicom.dicom.derive import Derivation, derived
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.series import OnSlice, read_series, write_series
from salm_dicom.dicom.splice import Encoding, splice
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers, StoredPixels

RECORD = ProtectionRecord(
    method="random", extent="slice", epsilon=4 / 255, budget_modality=6.0, budget_stored=6,
    units="HU", intensity_range=(-160.0, 240.0), rho=0.2, foreground_share=0.5,
    changed_share=0.2, largest_change_stored=1, largest_change_modality=1.0, digest="a" * 64,
)  # fmt: skip
DERIVATION = Derivation(
    record=RECORD, created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), site_key=b"key"
)
_META_VRS = {1: "OB", 2: "UI", 3: "UI", 0x10: "UI", 0x12: "UI", 0x13: "SH", 0x16: "AE"}


def derivation(*, site_key: bytes = b"key", **record: Any) -> Derivation:
    """Return `DERIVATION` with another key or another record."""
    return replace(DERIVATION, site_key=site_key, record=replace(RECORD, **record))


def one_voxel(index: int, pixels: StoredPixels) -> Integers:
    """Return a change of +1 in the middle of a slice."""
    delta = np.zeros(pixels.values.shape, np.int16)
    delta[0, delta.shape[1] // 2, delta.shape[2] // 2] = 1
    return delta


def write(
    paths: list[Path],
    folder: Path,
    how: Derivation = DERIVATION,
    on_slice: OnSlice = lambda *_: None,
) -> tuple[Path, ...]:
    """Write the derived instances of `paths`, one voxel of each changed."""
    return write_series(read_series(paths).origin, one_voxel, folder, how, on_slice)


def derive(file: Part10, how: Derivation = DERIVATION) -> Part10:
    """Return the derived instance of a file, one voxel changed."""
    values = stored_values(file).copy()
    values[values.shape[0] // 2, values.shape[1] // 2] += 1
    return parse(derived(file, values, how))


def edited(data: bytes, changes: dict[int, tuple[str, bytes] | None]) -> Part10:
    """Return a file with some elements set to a VR and raw bytes, or taken away."""
    file = parse(data)
    code = Encoding.of(file)
    meta = {tag: (_META_VRS[tag & 0xFF], value) for tag, value in file.meta.items() if tag & 0xFFFF}
    new = {
        tag: None if change is None else code.element(tag, *change)
        for tag, change in changes.items()
    }
    return parse(splice(file, new, meta))
