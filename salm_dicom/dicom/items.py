"""Items of a sequence, read from the element's bytes without building a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import error as StructError

from salm_dicom.dicom.elements import Span, Unusual, walk
from salm_dicom.dicom.elements import items as element_items
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
        found = element_items(value, 0, len(value), implicit=code.implicit, little=code.little)
        return tuple(_item(value[one.value : one.value_stop], code) for one in found)
    except (Unusual, StructError) as error:
        raise ParseError("a sequence of the header is not encoded as the standard says") from error


def _item(data: bytes, code: Encoding) -> Item:
    return Item(data, code, tuple(walk(data, 0, implicit=code.implicit, little=code.little)))
