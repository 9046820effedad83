"""Regions of an ultrasound image: where it shows the patient, and not text.

Devices that follow the standard list the rectangles with anatomy in Sequence of Ultrasound Regions
(PS3.3 C.8.5.5); names, dates, scales and logos lie outside. Where an image has such a list, nothing
outside the rectangles is ever changed.
"""

from __future__ import annotations

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom.items import Item, items_of
from salm_dicom.dicom.part10 import Part10
from salm_dicom.errors import ParseError
from salm_dicom.volume import Booleans

_REGIONS = 0x00186011
_EDGES = (0x00186018, 0x0018601A, 0x0018601C, 0x0018601E)  # min x, min y, max x, max y


def ultrasound_regions(file: Part10) -> Booleans | None:
    """Return True inside the listed rectangles, (rows, columns); None where none is listed.

    A rectangle that leaves the image is cut at its edge; a list that cannot be understood, or that
    leaves nothing, counts as none.
    """
    if _REGIONS not in file:
        return None
    inside = np.zeros((h.short_of(file, h.ROWS), h.short_of(file, h.COLUMNS)), dtype=bool)
    try:
        for item in items_of(file, _REGIONS):
            left, top, right, bottom = (_number(item, tag) for tag in _EDGES)
            inside[top : bottom + 1, left : right + 1] = True
    except ParseError:
        return None
    return inside if inside.any() else None


def _number(item: Item, tag: int) -> int:
    """Return a UL value; UL is what the standard says, US is what some devices write."""
    value = item.value(tag)
    if len(value) not in (2, 4):
        raise ParseError("an ultrasound region has no edge")
    return int.from_bytes(value, "little" if item.code.little else "big")
