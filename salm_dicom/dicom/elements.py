"""Find the top-level elements of a data set without decoding them.

A pass over element headers (PS3.5 7.1) that is several times quicker than building a data set and
is all that scanning, splicing and checking need. It understands exactly what the standard says and
raises `Unusual` at anything else; the caller then asks pydicom, which knows what vendors do.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

UNDEFINED = 0xFFFFFFFF
ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
# Float, double float and integer pixel data: whatever comes from here on is not header.
FIRST_PIXEL_TAG = 0x7FE00008
_DEEPEST = 50
_new = tuple.__new__

_LONG = {str(vr).encode() for vr in EXPLICIT_VR_LENGTH_32}
KNOWN_VRS = {str(vr).encode() for vr in VR if len(str(vr)) == 2}
_SHORT = KNOWN_VRS - _LONG
_NAMES = {vr: vr.decode() for vr in KNOWN_VRS} | {b"": ""}
_ORDER = {True: "<", False: ">"}
_IMPLICIT = {little: Struct(f"{order}HHL").unpack_from for little, order in _ORDER.items()}
_EXPLICIT = {little: Struct(f"{order}HH2sH").unpack_from for little, order in _ORDER.items()}
_LENGTH = {little: Struct(f"{order}L").unpack_from for little, order in _ORDER.items()}


class Unusual(Exception):
    """The bytes are not what the standard says; not necessarily an error."""


class Span(NamedTuple):
    """Where one element lies: header, value and end, as offsets; `vr` is empty if implicit."""

    tag: int
    vr: str
    start: int
    value: int
    value_stop: int
    stop: int


def walk(
    data: bytes, start: int, *, implicit: bool, little: bool, before: int = UNDEFINED
) -> list[Span]:
    """Return the elements from `start` to the end of the data, or up to tag `before`.

    Raises
    ------
    Unusual
        Unknown VR, tags out of order, a delimiter out of place, or the data end too early.
    """
    spans: list[Span] = []
    position, size, last = start, len(data), -1
    quick = not implicit
    unpack, append, short = _EXPLICIT[little], spans.append, _SHORT
    while position < size:
        if quick and position + 12 <= size:
            # the one hot loop of scanning: `_head` for short explicit elements, written out
            group, element, vr, length = unpack(data, position)
            tag, value = group << 16 | element, position + 8
            if vr not in short:
                tag, vr, value, length = _head(data, position, implicit, little)
        else:
            tag, vr, value, length = _head(data, position, implicit, little)
        if tag >= before:
            break
        if tag <= last or tag >= ITEM:
            raise Unusual
        last = tag
        if length == UNDEFINED:
            stop = _skip_items(data, value, implicit or vr == b"UN", little, 1)
            value_stop = stop - 8
        else:
            stop = value_stop = value + length
            if stop > size:
                raise Unusual
        # what `Span()` does, in half the time
        append(_new(Span, (tag, _NAMES[vr], position, value, value_stop, stop)))
        position = stop
    return spans


def items(data: bytes, start: int, stop: int, *, implicit: bool, little: bool) -> list[Span]:
    """Return the items of the sequence value between two offsets, its delimiter excluded.

    Raises
    ------
    Unusual
        Something else than items lies there, or an item is longer than the value.
    """
    found: list[Span] = []
    position = start
    while position < stop:
        if position + 8 > stop:
            raise Unusual
        group, element, length = _IMPLICIT[little](data, position)
        if group << 16 | element != ITEM:
            raise Unusual
        value = position + 8
        if length == UNDEFINED:
            end = skip_elements(data, value, implicit, little, 1)
            value_stop = end - 8
        else:
            end = value_stop = value + length
        if end > stop:
            raise Unusual
        found.append(Span(ITEM, "", position, value, value_stop, end))
        position = end
    return found


def _head(data: bytes, position: int, implicit: bool, little: bool) -> tuple[int, bytes, int, int]:
    """Return tag, VR, where the value starts, and its length."""
    if position + 8 > len(data):
        raise Unusual
    if implicit:
        group, element, length = _IMPLICIT[little](data, position)
        return group << 16 | element, b"", position + 8, length
    group, element, vr, short = _EXPLICIT[little](data, position)
    tag = group << 16 | element
    if group == 0xFFFE:
        return tag, b"", position + 8, _LENGTH[little](data, position + 4)[0]
    if vr in _LONG:
        if position + 12 > len(data):
            raise Unusual
        return tag, vr, position + 12, _LENGTH[little](data, position + 8)[0]
    if vr not in KNOWN_VRS:
        raise Unusual
    return tag, vr, position + 8, short


def _skip_items(data: bytes, position: int, implicit: bool, little: bool, depth: int) -> int:
    """Return where a sequence or encapsulated value of undefined length ends."""
    if depth > _DEEPEST:
        raise Unusual
    while True:
        if position + 8 > len(data):
            raise Unusual
        group, element, length = _IMPLICIT[little](data, position)
        tag = group << 16 | element
        position += 8
        if tag == SEQUENCE_END:
            return position
        if tag != ITEM:
            raise Unusual
        if length == UNDEFINED:
            position = skip_elements(data, position, implicit, little, depth)
        else:
            position += length


def skip_elements(data: bytes, position: int, implicit: bool, little: bool, depth: int) -> int:
    """Return where an item of undefined length ends."""
    while True:
        tag, vr, value, length = _head(data, position, implicit, little)
        if tag == ITEM_END:
            return value
        if length == UNDEFINED:
            position = _skip_items(data, value, implicit or vr == b"UN", little, depth + 1)
        else:
            position = value + length
        if position > len(data):
            raise Unusual
