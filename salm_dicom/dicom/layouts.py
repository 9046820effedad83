"""Layouts: where the elements of a header lie, as in files before it that had the same ones.

The slices of a series mostly have the same elements, as long as those of a slice before. To see
that takes one call of `struct`, a fraction of the time of walking from element to element.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from struct import Struct
from typing import NamedTuple

from salm_dicom.dicom.elements import FIRST_PIXEL_TAG, Span, Unusual, walk

# As many as are in turn: of a source and what was made of it, of slices with longer numbers.
_MOST, _CODINGS = 4, 32
# A value of undefined length is compared as a whole, up to so many bytes.
_LONGEST = 1 << 12
# A header of fewer elements is walked as fast.
_FEWEST = 16

# Start of the data set, whether it is implicit and little endian.
Coding = tuple[int, bool, bool]


class Layout(NamedTuple):
    """Elements of a header, and what says that a file has the same ones.

    Parameters
    ----------
    headers, expected
        Tag, VR and length of each element, and what they are; values are skipped.
    probe
        Where the tag of the last element lies, and its bytes: most files that differ do there.
    """

    spans: list[Span]
    headers: Struct
    expected: tuple[int | bytes, ...]
    probe: tuple[int, int, bytes]


class Layouts:
    """Those that were seen lately, the last one first."""

    def __init__(self) -> None:
        self._known: dict[Coding, list[Layout]] = {}
        self._seen: dict[Coding, list[list[Span]]] = {}

    def walk(
        self, data: bytes, start: int, *, implicit: bool, little: bool, before: int
    ) -> list[Span]:
        """Return what `elements.walk` does."""
        coding = start, implicit, little
        known = self._fitting(data, coding) if before >= FIRST_PIXEL_TAG else None
        if known is None:
            found = walk(data, start, implicit=implicit, little=little, before=before)
            if before >= FIRST_PIXEL_TAG:
                self._see(data, coding, found)
            return found
        last = known.spans[-1]
        rest = walk(data, last.stop, implicit=implicit, little=little, before=before)
        if rest and rest[0].tag <= last.tag:
            raise Unusual
        return known.spans + rest

    def _fitting(self, data: bytes, coding: Coding) -> Layout | None:
        known = self._known.get(coding, ())
        for number, one in enumerate(known):
            start, stop, tag = one.probe
            if data[start:stop] != tag or len(data) < one.spans[-1].stop:
                continue
            if one.headers.unpack_from(data, coding[0]) == one.expected:
                if number:
                    self._known[coding] = [one, *known[:number], *known[number + 1 :]]
                return one
        return None

    def _see(self, data: bytes, coding: Coding, spans: list[Span]) -> None:
        """Remember the layout of a header that is seen for the second time."""
        header = list(takewhile(lambda span: span.tag < FIRST_PIXEL_TAG, spans))
        if len(header) < _FEWEST:
            return
        seen = self._seen.get(coding, [])
        if header not in seen:
            self._make_room()
            self._seen[coding] = [header, *seen[: _MOST - 1]]
            return
        made = _layout(data, coding, header)
        if made is not None:
            self._known[coding] = [made, *self._known.get(coding, [])[: _MOST - 1]]

    def _make_room(self) -> None:
        """Forget everything where starts of data sets differ from file to file."""
        if len(self._seen) > _CODINGS:
            self._seen, self._known = {}, {}


def _layout(data: bytes, coding: Coding, spans: Sequence[Span]) -> Layout | None:
    """Return a layout of some elements, those from a long one of undefined length on left out."""
    _, implicit, little = coding
    order = "<" if little else ">"
    parts, kept = [order], list[Span]()
    for span in spans:
        length, skipped = span.value - span.start, span.stop - span.value
        is_undefined = span.value_stop != span.stop
        if is_undefined and skipped > _LONGEST:
            break
        head = "HHL" if implicit else "HH2sH" if length == 8 else "HH2sHL"
        parts.append(f"{head}{skipped}{'s' if is_undefined else 'x'}")
        kept.append(span)
    if len(kept) < _FEWEST:
        return None
    headers, at = Struct("".join(parts)), kept[-1].start
    return Layout(
        kept, headers, headers.unpack_from(data, coding[0]), (at, at + 4, data[at : at + 4])
    )
