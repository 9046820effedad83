"""The window that a file asks to be shown with."""

from __future__ import annotations

import math

from salm_dicom.dicom import header as h
from salm_dicom.dicom.frames import PER_FRAME, SHARED
from salm_dicom.dicom.items import items_of
from salm_dicom.dicom.part10 import Part10

_CENTER = 0x00281050
_WIDTH = 0x00281051
_FRAME_VOI_LUT = 0x00289132


def display_window(file: Part10, frame: int = 0) -> tuple[float, float] | None:
    """Return the modality values that the first window of a frame shows as black and white.

    Center plus and minus half of the width; None where there is no window that can be read: it
    decides what is seen first, and nothing else.

    References
    ----------
    PS3.3 C.11.2 (VOI LUT), C.7.6.16.2.10 (Frame VOI LUT).
    """
    found = _window(h.text_of(file, _CENTER), h.text_of(file, _WIDTH))
    if found is not None or PER_FRAME not in file:
        return found
    own = items_of(file, PER_FRAME)
    for group in (*own[frame : frame + 1], *items_of(file, SHARED)):
        for item in group.items(_FRAME_VOI_LUT):
            return _window(item.text(_CENTER), item.text(_WIDTH))
    return None


def _window(center: str, width: str) -> tuple[float, float] | None:
    """Return the ends of the first of several windows, as DS texts."""
    try:
        middle, whole = (float(text.split("\\")[0]) for text in (center, width))
    except ValueError:
        return None
    if not (math.isfinite(middle) and math.isfinite(whole) and whole > 0):
        return None
    return middle - whole / 2, middle + whole / 2
