"""Functional groups of a derived multi-frame image: what the write policy changes in them.

Each frame says what it was derived from (Derivation Image Sequence, PS3.3 C.7.6.16.2.6) and that it
is derived (Frame Type); the sources are listed once more at the top (Source Image Evidence
Sequence). Every other element of every item keeps its bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import pack

from pydicom.datadict import dictionary_VR

from salm_dicom.dicom import header as h
from salm_dicom.dicom import provenance
from salm_dicom.dicom.elements import Span
from salm_dicom.dicom.frames import PER_FRAME, SHARED
from salm_dicom.dicom.items import Item, appended, items, items_of, nested
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.references import uids_in
from salm_dicom.dicom.splice import Encoding
from salm_dicom.dicom.uids import KEPT
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import ParseError
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers

DERIVATION_IMAGE = 0x00089124
EVIDENCE = 0x00089154
_FRAME_TYPE = 0x00089007
_LEAST = 0x00280106
_MOST = 0x00280107
CHANGED = {DERIVATION_IMAGE, _FRAME_TYPE, _LEAST, _MOST}


def changes(
    file: Part10, source: h.Identity, record: ProtectionRecord, values: Integers
) -> dict[int, bytes | None]:
    """Return the elements with functional groups of a derived image, encoded, by tag.

    Parameters
    ----------
    values
        Stored values after the change, (frames, rows, columns).
    """
    code = Encoding.of(file)
    shared, own = items_of(file, SHARED), items_of(file, PER_FRAME)
    inner = nested(code, file.vr(PER_FRAME))
    earlier = b"".join(item.value(DERIVATION_IMAGE) for item in shared)
    each = []
    for number, (item, frame) in enumerate(zip(own, values, strict=True), start=1):
        ours = provenance.derivation_image(inner, source, record, number)
        derivation = item.value(DERIVATION_IMAGE) or earlier
        added = inner.element(DERIVATION_IMAGE, "SQ", derivation + ours)
        each.append(inner.item(_edited(item, (int(frame.min()), int(frame.max())), added)))
    all_values = int(values.min()), int(values.max())
    out: dict[int, bytes | None] = {
        PER_FRAME: code.element(PER_FRAME, file.vr(PER_FRAME) or "SQ", b"".join(each)),
        EVIDENCE: appended(
            file, EVIDENCE, lambda c: provenance.evidence(c, h.text_of(file, h.STUDY_UID), source)
        ),
    }
    if shared:
        inner = nested(code, file.vr(SHARED))
        kept = b"".join(inner.item(_edited(item, all_values, b"")) for item in shared)
        out[SHARED] = code.element(SHARED, file.vr(SHARED) or "SQ", kept)
    return out


def _edited(item: Item, extremes: tuple[int, int], derivation: bytes) -> Iterator[bytes]:
    """Yield the elements of an item of functional groups, changed where the policy says so."""
    pending = derivation
    for span in item.spans:
        if pending and span.tag >= DERIVATION_IMAGE:
            yield pending
            pending = b""
        if span.tag != DERIVATION_IMAGE:
            yield _element(item, span, extremes)
    yield pending


def _element(item: Item, span: Span, extremes: tuple[int, int]) -> bytes:
    code, value = item.code, item.data[span.value : span.value_stop]
    old = item.data[span.start : span.stop]
    if span.tag == _FRAME_TYPE and value:
        rest = value.rstrip(b" \0").split(b"\\")[1:]
        return code.element(_FRAME_TYPE, "CS", b"\\".join([b"DERIVED", *rest]))
    if span.tag in (_LEAST, _MOST) and len(value) == 2:
        number = code.unsigned_short(extremes[span.tag == _MOST])
        return code.element(span.tag, span.vr or "US", number)
    if not _is_sequence(span) or not _holds_change(old, code.little):
        return old
    inner = nested(code, span.vr)
    kept = (inner.item(_edited(one, extremes, b"")) for one in items(value, inner))
    return code.element(span.tag, span.vr or "SQ", b"".join(kept))


def _is_sequence(span: Span) -> bool:
    return _vr(span) == "SQ"


def _vr(span: Span) -> str:
    """Return the VR of an element, from the dictionary where it is implicit or UN."""
    if span.vr not in ("", "UN"):
        return span.vr
    try:
        return dictionary_VR(span.tag)
    except KeyError:
        return ""


def _holds_change(data: bytes, little: bool) -> bool:
    """Return whether bytes may hold an attribute that changes: most sequences do not."""
    order = "<HH" if little else ">HH"
    return any(pack(order, t >> 16, t & 0xFFFF) in data for t in (_FRAME_TYPE, _LEAST, _MOST))


def derivation_uids(source: Part10, protected: Part10) -> list[UidPair]:
    """Return the UIDs in what each frame of the source was derived from, and what became of them.

    Raises
    ------
    ParseError
        A sequence of the functional groups cannot be read.
    """
    earlier = [one for item in items_of(source, SHARED) for one in item.items(DERIVATION_IMAGE)]
    pairs: list[UidPair] = []
    for before, after in zip(
        items_of(source, PER_FRAME), items_of(protected, PER_FRAME), strict=False
    ):
        old = before.items(DERIVATION_IMAGE) or earlier
        for one, other in zip(old, after.items(DERIVATION_IMAGE), strict=False):
            pairs += zip(uids_in(one), uids_in(other), strict=False)
    return pairs


def differences(source: Part10, protected: Part10) -> Iterator[int]:
    """Yield the tag of each element of the functional groups that changed and should not have."""
    for tag in (SHARED, PER_FRAME):
        before, after = items_of(source, tag), items_of(protected, tag)
        if len(before) != len(after):
            yield tag
            continue
        for one, other in zip(before, after, strict=True):
            yield from _differences(one, other)


def _differences(before: Item, after: Item) -> Iterator[int]:
    old = {span.tag: span for span in before.spans if span.tag not in CHANGED}
    new = {span.tag: span for span in after.spans if span.tag not in CHANGED}
    yield from old.keys() ^ new.keys()
    for tag in old.keys() & new.keys():
        if before.value(tag) == after.value(tag):
            continue
        if _vr(old[tag]) == "UI" and tag not in KEPT:
            continue  # a reference: see `conformance.uid_pairs`
        try:
            pairs = list(zip(before.items(tag), after.items(tag), strict=True))
        except (ParseError, ValueError):
            yield tag
            continue
        if not _is_sequence(old[tag]):
            yield tag
        for one, other in pairs:
            yield from _differences(one, other)


def frame_types(protected: Part10) -> set[str]:
    """Return the first value of every Frame Type in the functional groups."""
    found: set[str] = set()
    for tag in (SHARED, PER_FRAME):
        for item in items_of(protected, tag):
            found |= _first_values(item)
    return found


def _first_values(item: Item) -> set[str]:
    found = {item.text(_FRAME_TYPE).split("\\")[0]} - {""}
    for span in item.spans:
        if _is_sequence(span) and _holds_change(
            item.data[span.start : span.stop], item.code.little
        ):
            for inner in item.items(span.tag):
                found |= _first_values(inner)
    return found
