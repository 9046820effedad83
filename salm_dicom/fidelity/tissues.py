"""Tissues: ranges of modality values that are told apart without knowing any organ."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from salm_dicom.volume import Booleans, Floats, Integers

if TYPE_CHECKING:
    from salm_dicom.fidelity.subject import Subject

# Upper edges in HU.
_CT = {"lung": -500.0, "fat": -30.0, "soft tissue": 150.0, "bone": np.inf}
_QUARTERS = ("darkest", "darker", "brighter", "brightest")
# Slices and values that the quarters of the foreground are taken from.
_SLICES, _VALUES = 16, 50_000


def tissues(subject: Subject) -> tuple[tuple[str, ...], Floats]:
    """Return names, and the modality values between them: HU for CT, else quarters of the source.

    Tissues are told apart in the source, so that no change of a value moves it to another one.
    """
    if subject.modality == "CT":
        return tuple(_CT), np.array([*_CT.values()][:-1])
    step = max(1, len(subject) // _SLICES)
    parts = [subject.source_at(i)[subject.mask[i]] for i in range(0, len(subject), step)]
    values = np.concatenate(parts)
    values = values[:: max(1, values.size // _VALUES)]
    return _QUARTERS, np.percentile(values, (25, 50, 75)) if values.size else np.zeros(3)


def reached(subject: Subject, index: int, edges: Floats) -> list[tuple[bool, int]]:
    """Return for each edge the stored value from which a slice reaches it, and in which direction.

    Comparing integers costs a fraction of mapping a slice. True: the value and all above it.
    """
    low, high = subject.extremes
    upward = bool(subject.pixels.slope[index] > 0)
    stored = range(low, high + 1) if upward else range(high, low - 1, -1)

    def is_reached(value: int, edge: float) -> bool:
        return bool(subject.mapped(index, np.array([value]))[0] >= edge)

    first = [bisect_left(stored, True, key=lambda v, e=edge: is_reached(v, e)) for edge in edges]  # type: ignore[misc]
    beyond = stored.stop
    return [(upward, stored[at] if at < len(stored) else beyond) for at in first]


def reaches(values: Integers, edge: tuple[bool, int]) -> Booleans:
    """Return which stored values reach an edge as `reached` gives it."""
    upward, stored = edge
    return np.asarray(values >= stored if upward else values <= stored)
