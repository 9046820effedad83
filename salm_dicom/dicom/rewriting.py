"""One pass over elements and their items that replaces UIDs; `references` runs it over a file.

References: PS3.5 6.2.2 (UN), 7.5 (sequences).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from struct import pack

from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from salm_dicom.dicom.elements import UNDEFINED, Span, items, walk
from salm_dicom.dicom.part10 import text
from salm_dicom.dicom.uids import KEPT

# Given a UID, returns what stands for it; the same UID where nothing changed.
NewUid = Callable[[str], str]

_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One pass over a data set: what replaces a UID, and which elements go at any depth."""

    new: NewUid
    dropped: Collection[int]

    def elements(
        self, data: bytes, spans: Collection[Span], implicit: bool, little: bool
    ) -> dict[int, bytes | None]:
        """Return the elements that are no longer what they were; None where one goes."""
        changes: dict[int, bytes | None] = {}
        for span in spans:
            if span.tag in self.dropped:
                changes[span.tag] = None
                continue
            vr = vr_among(data, span, spans)
            if vr == "UI" and span.tag not in KEPT:
                element = self._uids(data, span, little)
            elif vr == "SQ":
                as_implicit = span.vr == "UN"
                element = self._sequence(
                    data, span, implicit or as_implicit, little or as_implicit, little
                )
            else:
                continue
            if element is not None:
                changes[span.tag] = element
        return changes

    def _uids(self, data: bytes, span: Span, little: bool) -> bytes | None:
        old = [text(part) for part in data[span.value : span.value_stop].split(b"\\")]
        new = [self.new(uid) if uid else uid for uid in old]
        if new == old:
            return None
        value = "\\".join(new).encode("latin-1")
        return _resized(data, span, value + b"\0" * (len(value) % 2), little)

    def _sequence(
        self, data: bytes, span: Span, implicit: bool, inside: bool, little: bool
    ) -> bytes | None:
        """Return a sequence; `inside` is the byte order of its items, `little` its own."""
        parts: list[bytes] = []
        changed = False
        for item in items(data, span.value, span.value_stop, implicit=implicit, little=inside):
            body = self._item(data[item.value : item.value_stop], implicit, inside)
            if body is None:
                parts.append(data[item.start : item.stop])
                continue
            changed = True
            parts.append(_resized(data, item, body, inside))
        return _resized(data, span, b"".join(parts), little) if changed else None

    def _item(self, data: bytes, implicit: bool, little: bool) -> bytes | None:
        spans = walk(data, 0, implicit=implicit, little=little)
        changes = self.elements(data, spans, implicit, little)
        if not changes:
            return None
        touched = {tag >> 16 for tag in changes}
        parts = []
        for span in spans:
            if span.tag & 0xFFFF == 0 and span.tag >> 16 in touched:
                continue  # retired group length: it would be wrong
            part = changes.get(span.tag, data[span.start : span.stop])
            if part is not None:
                parts.append(part)
        return b"".join(parts)

    def decoded(self, dataset: Dataset) -> bool:
        """Do the same to pydicom's view, in place; return whether anything changed."""
        changed = False
        for tag in [int(tag) for tag in dataset.keys()]:  # noqa: SIM118
            if tag in self.dropped:
                del dataset[tag]
                changed = True
                continue
            changed |= self.decoded_element(dataset[tag])
        return changed

    def decoded_element(self, element: DataElement) -> bool:
        """Do the same to one decoded element, in place; return whether anything changed."""
        if element.VR == "SQ":
            return any([self.decoded(item) for item in element.value])
        if element.VR != "UI" or element.tag in KEPT or not element.value:
            return False
        old = [str(uid) for uid in (element.value if element.VM > 1 else [element.value])]
        new = [self.new(uid) if uid else uid for uid in old]
        element.value = new if len(new) > 1 else new[0]
        return new != old


def vr_among(data: bytes, span: Span, spans: Collection[Span]) -> str:
    """Return an element's VR; of one that does not say, what the dictionaries do."""
    if span.vr not in ("", "UN"):
        return span.vr
    try:
        if span.tag >> 16 & 1:
            creator = span.tag & 0xFFFF0000 | span.tag >> 8 & 0xFF
            names = [data[s.value : s.value_stop] for s in spans if s.tag == creator]
            vr = private_dictionary_VR(span.tag, text(names[0])) if names else ""
        else:
            vr = dictionary_VR(span.tag)
    except KeyError:
        vr = ""
    # PS3.5 6.2.2: of undefined length and unknown VR is a sequence
    is_sequence = span.value_stop != span.stop and span.tag != _PIXEL_DATA
    return "SQ" if is_sequence else vr


def _resized(data: bytes, span: Span, value: bytes, little: bool) -> bytes:
    """Return an element or item with another value; where its length is undefined it stays so."""
    head, end = data[span.start : span.value], data[span.value_stop : span.stop]
    order = "<" if little else ">"
    if span.vr not in ("", "UN", "SQ"):  # UI: two bytes for the length
        return head[:-2] + pack(f"{order}H", len(value)) + value
    if head[-4:] == pack("<L", UNDEFINED):
        return head + value + end
    return head[:-4] + pack(f"{order}L", len(value)) + value
