"""ProtectionRecord: what was done to one series, as plain values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionRecord:
    """What was done to one series; written in full to the vault, in one sentence to the files.

    Parameters
    ----------
    method, extent
        Names as in `METHODS` and `slice`/`volume`; `extent` is what was used, not what was asked.
    epsilon
        Budget as a fraction of the intensity range.
    budget_modality, budget_stored
        The same budget in modality units (HU for CT) and, largest over slices, in stored units.
    units
        Name of the modality units: `HU`, or `modality units`.
    intensity_range
        Modality values mapped to [0, 1].
    rho
        Largest share of foreground voxels that may change.
    foreground_share, changed_share
        Foreground voxels of all voxels; changed voxels of the foreground.
    largest_change_stored, largest_change_modality
        Largest absolute change that was made.
    digest
        SHA-256 of plan and protector; part of every UID.
    warnings
        Codes with a sentence each, e.g. `W_SPACING`.
    quantity
        Empty, or why the values are measurements, which were changed because that was asked for.
    """

    method: str
    extent: str
    epsilon: float
    budget_modality: float
    budget_stored: int
    units: str
    intensity_range: tuple[float, float]
    rho: float
    foreground_share: float
    changed_share: float
    largest_change_stored: int
    largest_change_modality: float
    digest: str
    series_uid: str = ""
    warnings: tuple[str, ...] = ()
    quantity: str = ""

    def to_json(self) -> str:
        """Return the record as one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ProtectionRecord:
        """Return the record that `to_json` wrote."""
        raw = json.loads(text)
        known = {f.name for f in fields(cls)}
        values = {key: value for key, value in raw.items() if key in known}
        values["intensity_range"] = tuple(values["intensity_range"])
        values["warnings"] = tuple(values.get("warnings", ()))
        return cls(**values)


def widest(records: Sequence[ProtectionRecord]) -> ProtectionRecord:
    """Return the record of several frames of one file: the largest of what each has."""

    def most(name: str) -> Any:
        return max(getattr(record, name) for record in records)

    return replace(
        records[0],
        epsilon=most("epsilon"),
        budget_modality=most("budget_modality"),
        budget_stored=most("budget_stored"),
        intensity_range=(
            min(record.intensity_range[0] for record in records),
            max(record.intensity_range[1] for record in records),
        ),
        foreground_share=most("foreground_share"),
        changed_share=most("changed_share"),
        largest_change_stored=most("largest_change_stored"),
        largest_change_modality=most("largest_change_modality"),
        warnings=tuple(sorted({text for record in records for text in record.warnings})),
    )
