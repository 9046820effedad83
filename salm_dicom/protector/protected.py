"""Protected: what a protector found for a volume, or for the volumes of one multi-frame file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from salm_dicom.errors import NoChange
from salm_dicom.foreground import outline
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Booleans, Integers, Volume


class Anatomy(Protocol):
    """Where anatomy is, slice by slice: an `Outline`, or several."""

    def at(self, index: int) -> Booleans:
        """Return the mask of one slice, (rows, columns)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """What a protector found for one volume: stored units to add, the foreground, the record."""

    delta: Integers
    outline: Anatomy
    record: ProtectionRecord

    @property
    def mask(self) -> Booleans:
        """Where a voxel may differ, shape of `delta`."""
        return np.stack([self.outline.at(index) for index in range(len(self.delta))])


class _Outlines:
    """The foregrounds of volumes that follow one another, as one stack."""

    def __init__(self, parts: Sequence[tuple[Anatomy, int]]) -> None:
        self._places = [(part, index) for part, slices in parts for index in range(slices)]

    def at(self, index: int) -> Booleans:
        part, inside = self._places[index]
        return part.at(inside)


def each(volume: Volume, apply: Callable[[Volume, int], Protected]) -> Protected:
    """Return what `apply` finds for each volume of a multi-frame file, joined.

    A volume that cannot be changed stays as it is, with a warning.

    Parameters
    ----------
    apply
        Given a volume and its number, from 1.

    Raises
    ------
    NoChange
        None of them can be changed.
    """
    deltas: list[Integers] = []
    outlines: list[tuple[Anatomy, int]] = []
    records: list[tuple[ProtectionRecord, int]] = []
    warnings: list[str] = []
    for number, one in enumerate(volume.volumes(), start=1):
        values, anatomy = one.pixels.values, None
        try:
            found = apply(one, number)
            delta, anatomy = found.delta, found.outline
            records.append((found.record, delta.size))
        except NoChange as error:
            delta = np.zeros(values.shape, dtype=np.int8)
            anatomy = outline(one.pixels, one.modality, one.photometric)
            warnings.append(f"W_PART: volume {number} of the file stays as it is: {error}")
        deltas.append(delta)
        outlines.append((anatomy, len(values)))
    if not records:
        raise NoChange(warnings[0])
    record = _joined(records, volume.pixels.values.size)
    return Protected(
        delta=np.concatenate(deltas),
        outline=_Outlines(outlines),
        record=replace(record, warnings=tuple(dict.fromkeys([*record.warnings, *warnings]))),
    )


def _joined(found: Sequence[tuple[ProtectionRecord, int]], voxels: int) -> ProtectionRecord:
    """Return one record for all volumes: largest budgets and changes, shares of all voxels."""
    done = [record for record, _ in found]
    inside = [record.foreground_share * size for record, size in found]
    changed = sum(r.changed_share * n for r, n in zip(done, inside, strict=True))
    lows, highs = zip(*(r.intensity_range for r in done), strict=True)
    return replace(
        done[0],
        extent="volume" if all(r.extent == "volume" for r in done) else "slice",
        epsilon=max(r.epsilon for r in done),
        budget_modality=max(r.budget_modality for r in done),
        budget_stored=max(r.budget_stored for r in done),
        intensity_range=(min(lows), max(highs)),
        foreground_share=sum(inside) / voxels,
        changed_share=changed / sum(inside),
        largest_change_stored=max(r.largest_change_stored for r in done),
        largest_change_modality=max(r.largest_change_modality for r in done),
        warnings=tuple(warning for record in done for warning in record.warnings),
    )
