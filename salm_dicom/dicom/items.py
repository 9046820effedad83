"""Items of a sequence, read from the element's bytes without building a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import error as StructError
from struct import unpack_from

from salm_dicom.dicom.elements import ITEM, UNDEFINED, Span, Unusual, skip_elements, walk
from salm_dicom.dicom.part10 import Part10, text
from salm_dicom.dicom.splice import IMPLICIT_LITTLE, Encoding
from salm_dicom.errors import ParseError


@dataclass(frozen=True, slots=True)
class Item:
    """One sequence item: its bytes without header and delimiter, and where each element lies."""

    data: bytes
    code: Encoding
    spans: tuple[Span, ...]

    def span(self, tag: int) -> Span | None:
        """Return where an element lies, or None."""
        return next((span for span in self.spans if span.tag == tag), None)

    def value(self, tag: int) -> bytes:
        """Return an element's value as encoded; empty when it is absent."""
        span = self.span(tag)
        return b"" if span is None else self.data[span.value : span.value_stop]

    def text(self, tag: int) -> str:
        """Return a text element without padding; empty when it is absent."""
        return text(self.value(tag))

    def items(self, tag: int) -> tuple[Item, ...]:
        """Return the items of a nested sequence; none when it is absent."""
        span = self.span(tag)
        if span is None:
            return ()
        return items(self.data[span.value : span.value_stop], nested(self.code, span.vr))


def nested(code: Encoding, vr: str) -> Encoding:
    """Return how the items of a sequence are encoded: UN is implicit little (PS3.5 6.2.2)."""
    return IMPLICIT_LITTLE if vr == "UN" else code


def items_of(file: Part10, tag: int) -> tuple[Item, ...]:
    """Return the items of a top-level sequence; none when it is absent."""
    return items(file.value(tag), nested(Encoding.of(file), file.vr(tag)))


def appended(file: Part10, tag: int, item: Callable[[Encoding], bytes]) -> bytes:
    """Return a top-level sequence, encoded, with one more item; `item` makes it."""
    code, vr = Encoding.of(file), file.vr(tag) or "SQ"
    return code.element(tag, vr, file.value(tag) + item(nested(code, vr)))


def items(value: bytes, code: Encoding) -> tuple[Item, ...]:
    """Return the items of a sequence's value.

    Raises
    ------
    ParseError
        The value is no sequence as PS3.5 7.5 says.
    """
    try:
        return tuple(_items(value, code))
    except (Unusual, StructError) as error:
        raise ParseError("a sequence of the header is not encoded as the standard says") from error


def _items(value: bytes, code: Encoding) -> Iterator[Item]:
    order = "<" if code.little else ">"
    position = 0
    while position < len(value):
        group, element, length = unpack_from(f"{order}HHL", value, position)
        if group << 16 | element != ITEM:
            raise Unusual
        start = position + 8
        if length == UNDEFINED:
            position = skip_elements(value, start, code.implicit, code.little, 1)
            stop = position - 8
        else:
            position = stop = start + length
        if stop > len(value):
            raise Unusual
        data = value[start:stop]
        found = walk(data, 0, implicit=code.implicit, little=code.little)
        yield Item(data, code, tuple(found))
