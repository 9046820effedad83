"""Replace UIDs at every depth of a data set, and leave every other byte where it was.

An object that points at a changed image must point at its new UID. Only the elements that hold a
replaced UID get new bytes, and the sequences around them new lengths; defined and undefined lengths
stay what they were. Where the walk meets something unusual, pydicom decodes and encodes that one
top-level element.

References: PS3.5 6.2.2 (UN), 7.5 (sequences); PS3.3 10.8, C.12.1 (SOP Common).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection
from copy import deepcopy
from dataclasses import dataclass
from struct import error as StructError
from struct import pack

from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, private_dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from salm_dicom.dicom.elements import UNDEFINED, Span, Unusual, items, walk
from salm_dicom.dicom.items import Item
from salm_dicom.dicom.part10 import Part10, text
from salm_dicom.dicom.uids import KEPT
from salm_dicom.errors import ParseError

# Given a UID, returns what stands for it; the same UID where nothing changed.
NewUid = Callable[[str], str]

# VRs that hold UIDs, or do not say what they hold.
_HOLDING = ("UI", "SQ", "UN", "")
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_PIXEL_DATA = 0x7FE00010


@dataclass(frozen=True, slots=True)
class _Rewriting:
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
            vr = _vr(data, span, spans)
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


def replaced(
    file: Part10, new: NewUid, *, dropped: Collection[int] = ()
) -> dict[int, bytes | None]:
    """Return the top-level elements that change when every UID is replaced, for `splice`.

    Parameters
    ----------
    new
        What replaces a UID.
    dropped
        Tags of elements that go, at any depth.

    Raises
    ------
    ParseError
        An element that cannot be parsed holds a UID to replace, or one outgrows its length.
    """
    rewriting = _Rewriting(new, dropped)
    changes: dict[int, bytes | None] = {}
    for span in file.spans:
        changes |= _one(file, span, rewriting)
    return changes


def _one(file: Part10, span: Span, rewriting: _Rewriting) -> dict[int, bytes | None]:
    """Return what one top-level element becomes; nothing where it stays."""
    if span.vr not in _HOLDING and span.tag not in rewriting.dropped:
        return {}
    try:
        return rewriting.elements(
            file.data, _with_creators(file, span), file.is_implicit_vr, file.is_little_endian
        )
    except Unusual:
        return _by_pydicom(file, span, rewriting)
    except StructError as error:
        raise ParseError("a list of UIDs is too long for its element") from error


def vr_of(file: Part10, span: Span) -> str:
    """Return the VR of a top-level element, from a dictionary where it does not say, or nothing."""
    return _vr(file.data, span, _with_creators(file, span))


def uids_of(
    file: Part10, *, but: Collection[int] = (), without: Collection[int] = ()
) -> list[tuple[int, str]]:
    """Return every UID that `replaced` would ask for, with its top-level tag, in file order.

    Parameters
    ----------
    but
        Top-level tags that are not looked into.
    without
        Tags that are not looked into at any depth.
    """
    found: list[tuple[int, str]] = []
    for span in file.spans:
        if span.tag in but:
            continue
        uids: list[str] = []

        def note(uid: str, uids: list[str] = uids) -> str:
            uids.append(uid)
            return uid

        _one(file, span, _Rewriting(note, without))
        found += [(span.tag, uid) for uid in uids]
    return found


def uids_in(item: Item) -> list[str]:
    """Return every UID in an item that `replaced` would ask for.

    Raises
    ------
    Unusual
    """
    found: list[str] = []

    def note(uid: str) -> str:
        found.append(uid)
        return uid

    code = item.code
    _Rewriting(note, ()).elements(item.data, item.spans, code.implicit, code.little)
    return found


def _with_creators(file: Part10, span: Span) -> tuple[Span, ...]:
    """Return the element, and the private creator that says what it is."""
    if span.vr not in ("", "UN") or not span.tag >> 16 & 1 or span.tag & 0xFFFF < 0x1000:
        return (span,)
    creator = span.tag & 0xFFFF0000 | span.tag >> 8 & 0xFF
    return (*(one for one in file.spans if one.tag == creator), span)


def _vr(data: bytes, span: Span, spans: Collection[Span]) -> str:
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


def _by_pydicom(file: Part10, span: Span, rewriting: _Rewriting) -> dict[int, bytes | None]:
    """Return a top-level element that the walk does not understand as pydicom encodes it.

    Raises
    ------
    ParseError
        pydicom finds no UIDs in it, but one that should be replaced is there.
    """
    seen: list[str] = []

    def noted(uid: str) -> str:
        seen.append(uid)
        return rewriting.new(uid)

    element = _encoded_by_pydicom(file, span.tag, _Rewriting(noted, rewriting.dropped))
    if not seen and element is None:
        for uid in _UID.findall(file.data[span.value : span.value_stop]):
            if rewriting.new(uid.decode("ascii")) != uid.decode("ascii"):
                raise ParseError(
                    f"({span.tag >> 16:04X},{span.tag & 0xFFFF:04X}) cannot be parsed, and holds "
                    "references that would have to be mapped"
                )
    return {} if element is None else {span.tag: element}


def _encoded_by_pydicom(file: Part10, tag: int, rewriting: _Rewriting) -> bytes | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            element = deepcopy(file.dataset[tag])
            if not rewriting.decoded_element(element):
                return None
            stream = DicomBytesIO()
            stream.is_implicit_VR = file.is_implicit_vr
            stream.is_little_endian = file.is_little_endian
            names = file.dataset.get("SpecificCharacterSet", "ISO_IR 6")
            write_data_element(stream, element, convert_encodings(names))
            return stream.getvalue()
    except Exception:  # what pydicom raises at broken bytes is not foreseeable
        return None
