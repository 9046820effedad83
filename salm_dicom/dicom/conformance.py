"""Our own check of a protected instance against its source.

`protect` checks the header of every file before it keeps it, and that its pixels decode to what was
meant; `verify` runs all of it on what lies on disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from salm_dicom.dicom import functional_groups as groups
from salm_dicom.dicom import header as h
from salm_dicom.dicom import pixels, provenance
from salm_dicom.dicom.derive import ENCRYPTED, REMOVED
from salm_dicom.dicom.encode import is_exactly
from salm_dicom.dicom.frames import PER_FRAME, SHARED
from salm_dicom.dicom.items import Item, items_of
from salm_dicom.dicom.part10 import Part10, text
from salm_dicom.dicom.references import uids_of
from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.unchanged import UidPair, compare
from salm_dicom.dicom.writers import writer_of
from salm_dicom.difference import difference
from salm_dicom.volume import Booleans, Integers

# Attributes the write policy changes; every other one must keep its bytes.
CHANGED = {
    h.IMAGE_TYPE, 0x00080012, 0x00080013, h.SOP_INSTANCE_UID, 0x0008103E, 0x00082111, 0x00082112,
    0x00089215, h.EQUIPMENT, h.SERIES_UID, 0x00200011, 0x00280106, 0x00280107, pixels.PIXEL_DATA,
    groups.EVIDENCE, ENCRYPTED,
}  # fmt: skip
# Compared element by element, see `functional_groups.differences`.
_GROUPS = {SHARED, PER_FRAME}
# What may describe colour otherwise when compressed colour was decoded.
_COLOUR = {h.PHOTOMETRIC, h.PLANAR}
# Filled where the source has none: an instance without them is no valid DICOM.
FILLED = {h.SOP_CLASS_UID, h.STUDY_UID}
DERIVATION = 0x00082111
_ICON = 0x00880200
SOURCE_IMAGE = 0x00082112
_LOSSY_SYNTAXES = {
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a protected instance; never quotes a value of the patient's."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance and its decoded stored values, see `pixels.stored_values`."""

    file: Part10
    values: Integers


def check(
    source: Instance,
    protected: Instance,
    *,
    may_change: Booleans | None = None,
    largest: int | None = None,
) -> list[Finding]:
    """Return everything that is wrong with `protected`; an empty list is a pass.

    Parameters
    ----------
    may_change
        True where a stored value may differ, shape of the values; None checks the padding only.
    largest
        Largest allowed absolute change in stored units; None takes what the file itself states.
    """
    header = check_header(source.file, protected.file)
    return [*header, *_pixels(source, protected, may_change, largest)]


@dataclass(frozen=True, slots=True)
class Derived:
    """How an instance, or one frame of it, says it was derived; the last of several times."""

    text: str
    codes: bytes
    source_uid: str


def derivations(protected: Part10) -> list[Derived]:
    """Return what an instance says of its derivation: once, or for each frame of functional groups.

    Raises
    ------
    ParseError
        A sequence cannot be read.
    """
    if PER_FRAME not in protected:
        codes = protected.value(0x00089215)
        images = items_of(protected, SOURCE_IMAGE)
        return [Derived(h.text_of(protected, DERIVATION), codes, _uid_of_last(images))]
    found = []
    for frame in items_of(protected, PER_FRAME):
        said = frame.items(groups.DERIVATION_IMAGE)
        if not said:
            found.append(Derived("", b"", ""))
            continue
        text, codes = said[-1].text(DERIVATION), said[-1].value(0x00089215)
        found.append(Derived(text, codes, _uid_of_last(said[-1].items(SOURCE_IMAGE))))
    return found


def _uid_of_last(images: tuple[Item, ...]) -> str:
    return images[-1].text(0x00081155) if images else ""


def check_header(
    source: Part10, protected: Part10, references: NewUid | None = None
) -> list[Finding]:
    """Return what is wrong with everything but the pixels, by the write policy.

    Parameters
    ----------
    references
        New UIDs that its references must have; None leaves them to who sees the whole output.
    """
    return [
        *_uids(source, protected),
        *_references(source, protected, references),
        *_attributes(source, protected),
        *_provenance(source, protected),
    ]


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _uids(source: Part10, protected: Part10) -> Iterator[Finding]:
    old, new = h.identity_of(source), h.identity_of(protected)
    if new.sop_uid == old.sop_uid:
        yield Finding("UID_REUSED", "(0008,0018) SOP Instance UID is the source's")
    if new.series_uid == old.series_uid:
        yield Finding("UID_REUSED", "(0020,000E) Series Instance UID is the source's")
    meta = protected.meta
    if text(meta.get(h.META_SOP_UID, b"")) != new.sop_uid:
        yield Finding("META_UID", "(0002,0003) is not the SOP Instance UID of the data set")
    if {text(meta.get(h.META_SOP_CLASS_UID, b"")), new.sop_class} != {old.sop_class}:
        yield Finding("META_UID", "the SOP Class UID is not the source's")


def uid_pairs(source: Part10, protected: Part10) -> list[UidPair]:
    """Return every UID of the source but its own, and what the protected instance has there."""
    own = {h.SOP_INSTANCE_UID, h.SERIES_UID, *REMOVED}
    # what the derivation adds lies after what was there, but for that of each frame
    added = {groups.DERIVATION_IMAGE}
    after: dict[int, list[str]] = {}
    for tag, uid in uids_of(protected, but=own, without=added):
        after.setdefault(tag, []).append(uid)
    place = Counter[int]()
    pairs = groups.derivation_uids(source, protected)
    for tag, uid in uids_of(source, but=own, without=added):
        there = after.get(tag, [])
        if place[tag] < len(there):
            pairs.append((uid, there[place[tag]]))
        place[tag] += 1
    return pairs


def _references(source: Part10, protected: Part10, new: NewUid | None) -> Iterator[Finding]:
    wrong = new and sum(new(old) != found for old, found in uid_pairs(source, protected))
    if wrong:
        yield Finding("REFERENCE", f"{wrong} references are not mapped to what they should be")


def _attributes(source: Part10, protected: Part10) -> Iterator[Finding]:
    changed = CHANGED | _GROUPS
    if source.transfer_syntax != protected.transfer_syntax and _is_colour(source):
        changed |= _COLOUR
    if writer_of(h.identity_of(source).sop_class).lists_references:
        changed.add(0x00081115)
    before, after = source.element_bytes(changed), protected.element_bytes(changed)
    for tag in REMOVED.keys() & after.keys():
        code = "STALE_ICON" if tag == _ICON else "STALE_ATTRIBUTE"
        yield Finding(code, f"{_tag(tag)} {REMOVED[tag]} no longer describes the pixels")
    changed_tags = (t for t in before.keys() | after.keys() if before.get(t) != after.get(t))
    for tag in sorted({*changed_tags} - REMOVED.keys()):
        if tag & 0xFFFF == 0:
            continue
        if tag in FILLED and not h.text_of(source, tag):
            continue
        if tag not in after:
            yield Finding("ATTRIBUTE_REMOVED", f"{_tag(tag)} is missing")
        elif tag not in before:
            yield Finding("ATTRIBUTE_ADDED", f"{_tag(tag)} was added")
        else:
            one, other = Dataset(), Dataset()
            one.add(source.dataset[tag])
            other.add(protected.dataset[tag])
            yield from (Finding(d.code, d.text) for d in compare(one, other)[0])
    if not protected.value(ENCRYPTED).startswith(source.value(ENCRYPTED)):
        yield Finding("ATTRIBUTE_CHANGED", f"{_tag(ENCRYPTED)} lacks envelopes of the source")
    for tag in sorted(set(groups.differences(source, protected))):
        yield Finding("ATTRIBUTE_CHANGED", f"{_tag(tag)} of a functional group is not the source's")


def _is_colour(file: Part10) -> bool:
    return h.short_of(file, h.SAMPLES) > 1


def _provenance(source: Part10, protected: Part10) -> Iterator[Finding]:
    if h.text_of(protected, h.IMAGE_TYPE).split("\\")[0] != "DERIVED":
        yield Finding("NOT_DERIVED", "(0008,0008) Image Type does not begin with DERIVED")
    if groups.frame_types(protected) - {"DERIVED"}:
        yield Finding("NOT_DERIVED", "(0008,9007) a Frame Type does not begin with DERIVED")
    for number, said in enumerate(derivations(protected), start=1):
        where = f" of frame {number}" if PER_FRAME in protected else ""
        if provenance.stated_largest_change(said.text) is None:
            yield Finding("NO_PROVENANCE", f"(0008,2111){where} has no sentence of ours")
        if provenance.DERIVATION_CODE not in said.codes:
            yield Finding("NO_PROVENANCE", f"(0008,9215){where} lacks our code")
        if h.identity_of(source).sop_uid != said.source_uid:
            yield Finding("NO_PROVENANCE", f"(0008,2112){where} does not name the source")
    equipment = protected.value(h.EQUIPMENT)
    if not h.is_protected(protected) or provenance.EQUIPMENT_CODE not in equipment:
        yield Finding("NO_PROVENANCE", "(0018,A001) Contributing Equipment does not name us")
    if not h.text_of(protected, 0x00080012):
        yield Finding("NO_PROVENANCE", "(0008,0012) Instance Creation Date is missing")
    if str(protected.transfer_syntax) in _LOSSY_SYNTAXES:
        yield Finding("LOSSY", "written with a lossy transfer syntax")


def _pixels(
    source: Instance, protected: Instance, may_change: Booleans | None, largest: int | None
) -> Iterator[Finding]:
    before, after = source.values, protected.values
    if before.shape != after.shape or before.dtype != after.dtype:
        yield Finding("PIXEL_FORMAT", "rows, columns or number type of the pixels changed")
        return
    delta = difference(before, after)
    if may_change is not None:
        outside = int(np.count_nonzero(np.greater(delta != 0, may_change)))
        if outside:
            yield outside_changed(outside)
    yield from _padding(source.file, before, after)
    found = max(int(delta.max(initial=0)), -int(delta.min(initial=0)))
    half = 1 << max(h.short_of(protected.file, h.BITS_STORED) - 1, 1)
    if found >= half:
        wrapped = int(np.count_nonzero(np.abs(delta.astype(np.int64)) >= half))
        yield Finding("WRAPPED", f"{wrapped} values changed by half of all that their bits hold")
    allowed = largest
    if allowed is None:
        said = derivations(protected.file)
        allowed = provenance.stated_largest_change(said[0].text) if said else None
    if allowed is not None and found > allowed:
        yield Finding("BUDGET_EXCEEDED", f"a value changed by {found}, {allowed} is allowed")
    if not _is_colour(protected.file):
        yield from _range(protected.file, after)
    elif not is_exactly(protected.file, source.file, delta):
        yield Finding("COLOUR_CHANGED", "more than the luminance of the pixels changed")


def outside_changed(voxels: int) -> Finding:
    """Return what is said where so many voxels of an instance changed that may not."""
    return Finding("BACKGROUND_CHANGED", f"{voxels} voxels outside the foreground changed")


def _padding(source: Part10, before: Integers, after: Integers) -> Iterator[Finding]:
    edges = pixels.padding(source)
    if edges is None:
        return
    moved = int(np.count_nonzero(_within(before, edges) != _within(after, edges)))
    if moved:
        yield Finding("PADDING_CHANGED", f"{moved} padding voxels appeared or vanished")


def _range(protected: Part10, after: Integers) -> Iterator[Finding]:
    for tag, find in ((0x00280106, np.min), (0x00280107, np.max)):
        if protected.value(tag) and h.short_of(protected, tag) != int(find(after)) & 0xFFFF:
            yield Finding("STALE_RANGE", f"{_tag(tag)} is not what the pixels give")


def _within(values: Integers, edges: tuple[int, int]) -> NDArray[np.bool_]:
    if edges[0] == edges[1]:
        return np.asarray(values == edges[0])
    return np.asarray((values >= edges[0]) & (values <= edges[1]))
