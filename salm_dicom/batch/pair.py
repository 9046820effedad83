"""Pair: one volume of the source beside its protected pixels; needs no heavy library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from salm_dicom.volume import Booleans, Integers, Volume

if TYPE_CHECKING:
    from salm_dicom.fidelity import Region


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One volume before and after, and where it may differ; arrays of (slices, rows, columns).

    `has_after` says of each slice whether it has a protected counterpart; `after` holds the source
    where it has none. `regions` is what the user outlined; `extremes` are the least and the largest
    stored value of the source that is no padding, where they are known.
    """

    source: Volume
    after: Integers
    mask: Booleans
    has_after: Booleans
    regions: tuple[Region, ...] = ()
    extremes: tuple[int, int] | None = None


def pairs_of(
    volume: Volume,
    after: Integers,
    mask: Booleans,
    has_after: Booleans,
    regions: Sequence[Region] = (),
    extremes: Sequence[tuple[int, int]] = (),
) -> list[Pair]:
    """Return a pair for each volume that a stack is made of; regions are those of the stack."""
    ends = [(part.start, part.stop) for part in volume.parts] or [(0, len(after))]
    return [
        Pair(
            source=one,
            after=after[start:stop],
            mask=mask[start:stop],
            has_after=has_after[start:stop],
            regions=tuple(
                replace(region, where=region.where[start:stop])
                for region in regions
                if region.where[start:stop].any()
            ),
            extremes=extremes[number] if extremes else None,
        )
        for number, (one, (start, stop)) in enumerate(zip(volume.volumes(), ends, strict=True))
    ]
