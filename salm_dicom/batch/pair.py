"""Pair: one volume of the source beside its protected pixels; needs no heavy library."""

from __future__ import annotations

from dataclasses import dataclass

from salm_dicom.volume import Booleans, Integers, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One volume before and after, and where it may differ; arrays of (slices, rows, columns).

    `has_after` says of each slice whether it has a protected counterpart; `after` holds the source
    where it has none.
    """

    source: Volume
    after: Integers
    mask: Booleans
    has_after: Booleans


def pairs_of(volume: Volume, after: Integers, mask: Booleans, has_after: Booleans) -> list[Pair]:
    """Return a pair for each volume that a stack is made of."""
    ends = [(part.start, part.stop) for part in volume.parts] or [(0, len(after))]
    return [
        Pair(
            source=one,
            after=after[start:stop],
            mask=mask[start:stop],
            has_after=has_after[start:stop],
        )
        for one, (start, stop) in zip(volume.volumes(), ends, strict=True)
    ]
