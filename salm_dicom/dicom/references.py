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
from collections.abc import Collection
from copy import deepcopy
from functools import lru_cache
from struct import error as StructError

from pydicom.charset import convert_encodings
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from salm_dicom.dicom.elements import Span, Unusual, walk
from salm_dicom.dicom.items import Item
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.rewriting import NewUid, Rewriting, vr_among
from salm_dicom.errors import ParseError

# VRs that hold UIDs, or do not say what they hold.
_HOLDING = ("UI", "SQ", "UN", "")
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
# Bytes of the longest element whose UIDs are remembered.
_LONGEST_KNOWN = 1 << 12


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
    rewriting = Rewriting(new, dropped)
    changes: dict[int, bytes | None] = {}
    for span in file.spans:
        if span.vr not in _HOLDING and span.tag not in dropped:
            continue
        if not dropped:
            known = _known_uids(file, span, ())
            if known is not None and all(new(uid) == uid for uid in known):
                continue
        changes |= _one(file, span, rewriting)
    return changes


def _known_uids(file: Part10, span: Span, without: tuple[int, ...]) -> tuple[str, ...] | None:
    """Return the UIDs in an element, remembered from its equals; None: it has to be looked at.

    The slices of a series share most of their elements.
    """
    is_long = span.stop - span.start > _LONGEST_KNOWN
    if is_long or (span.vr not in ("UI", "SQ") and span.tag >> 16 & 1):
        return None
    element = file.data[span.start : span.stop]
    return _uids_of_element(element, file.is_implicit_vr, file.is_little_endian, without)


@lru_cache(maxsize=4096)
def _uids_of_element(
    element: bytes, implicit: bool, little: bool, without: tuple[int, ...]
) -> tuple[str, ...] | None:
    found: list[str] = []

    def note(uid: str) -> str:
        found.append(uid)
        return uid

    try:
        spans = walk(element, 0, implicit=implicit, little=little)
        Rewriting(note, without).elements(element, spans, implicit, little)
    except (Unusual, StructError):
        return None
    return tuple(found)


def _one(file: Part10, span: Span, rewriting: Rewriting) -> dict[int, bytes | None]:
    """Return what one top-level element becomes; nothing where it stays."""
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
    return vr_among(file.data, span, _with_creators(file, span))


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
        if span.vr not in _HOLDING or span.tag in but:
            continue
        known = _known_uids(file, span, tuple(without))
        if known is not None:
            found += [(span.tag, uid) for uid in known]
            continue
        uids: list[str] = []

        def note(uid: str, uids: list[str] = uids) -> str:
            uids.append(uid)
            return uid

        _one(file, span, Rewriting(note, without))
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
    Rewriting(note, ()).elements(item.data, item.spans, code.implicit, code.little)
    return found


def _with_creators(file: Part10, span: Span) -> tuple[Span, ...]:
    """Return the element, and the private creator that says what it is."""
    if span.vr not in ("", "UN") or not span.tag >> 16 & 1 or span.tag & 0xFFFF < 0x1000:
        return (span,)
    creator = span.tag & 0xFFFF0000 | span.tag >> 8 & 0xFF
    return (*(one for one in file.spans if one.tag == creator), span)


def _by_pydicom(file: Part10, span: Span, rewriting: Rewriting) -> dict[int, bytes | None]:
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

    element = _encoded_by_pydicom(file, span.tag, Rewriting(noted, rewriting.dropped))
    if not seen and element is None:
        for uid in _UID.findall(file.data[span.value : span.value_stop]):
            if rewriting.new(uid.decode("ascii")) != uid.decode("ascii"):
                raise ParseError(
                    f"({span.tag >> 16:04X},{span.tag & 0xFFFF:04X}) cannot be parsed, and holds "
                    "references that would have to be mapped"
                )
    return {} if element is None else {span.tag: element}


def _encoded_by_pydicom(file: Part10, tag: int, rewriting: Rewriting) -> bytes | None:
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
