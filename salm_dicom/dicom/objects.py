"""Objects that belong to a study and are not perturbed: which they are, and their copies.

Masks, contours, doses, reports, presentation states, registrations, waveforms and documents are
copied with a UID of their own and with their references mapped to the protected instances; every
other byte stays. What is not in COPIED is never copied: an image that could not be protected must
not slip into an output.

References: PS3.3 A.35 (SR), A.51 (Segmentation), A.18-A.21 (RT), C.12.1 (SOP Common).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom.uid import UID

from salm_dicom import __version__
from salm_dicom.dicom import header as h
from salm_dicom.dicom import provenance
from salm_dicom.dicom.elements import FIRST_PIXEL_TAG
from salm_dicom.dicom.modalities import modality
from salm_dicom.dicom.part10 import Part10, parse, text
from salm_dicom.dicom.references import replaced
from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.splice import IMPLICIT_LITTLE, Encoding, file_meta, splice, value_after
from salm_dicom.dicom.unchanged import Difference, UidPair, compare
from salm_dicom.errors import (
    AlreadyProtected,
    BadUid,
    InputError,
    MismatchError,
    ParseError,
    UnsupportedPixels,
)

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# SOP classes that are copied, by what people call them; a class ends with one of the numbers.
_FAMILIES = {
    "segmentation": ("66.4", "66.5"),
    "structure set": ("481.3",),
    "dose": ("481.2",),
    "plan": ("481.5", "481.8", "481.10", "481.12"),
    "treatment record": ("481.4", "481.6", "481.7", "481.9"),
    "report": (
        "88.11", "88.22", "88.33", "88.34", "88.35", "88.40", "88.50", "88.65", "88.67", "88.68",
        "88.69", "88.70", "88.71", "88.72", "88.73", "88.74", "88.75", "88.76", "88.77", "90.1",
    ),
    "key object selection": ("88.59",),
    "presentation state": (
        "11.1", "11.2", "11.3", "11.4", "11.5", "11.6", "11.7", "11.8", "11.9", "11.10", "11.11",
        "11.12", "131",
    ),
    "registration": ("66.1", "66.2", "66.3"),
    "real world value mapping": ("67",),
    "annotation": ("91.1", "481.11"),
    "tractography": ("66.6",),
    "measurement": (
        "77.1.5.3", "78.1", "78.2", "78.3", "78.4", "78.5", "78.6", "78.7", "78.8", "79.1", "80.1",
    ),
    "waveform": (
        "9.1.1", "9.1.2", "9.1.3", "9.1.4", "9.2.1", "9.3.1", "9.4.1", "9.4.2", "9.5.1", "9.6.1",
        "9.6.2", "9.7.1", "9.7.2", "9.7.3", "9.7.4", "9.8.1",
    ),
    "document": ("104.1", "104.2", "104.3", "104.4", "104.5"),
}  # fmt: skip
COPIED: dict[str, str] = {
    _STORAGE + number: name for name, numbers in _FAMILIES.items() for number in numbers
}
DOCUMENT = "document"
# The only ones with pixels: masks and a dose grid.
_WITH_PIXELS = {_STORAGE + "66.4", _STORAGE + "481.2"}
# Go from a copy at any depth: thumbnails of unprotected images, signatures and digests that are
# void, a status that is untrue, a retired length.
STALE = {
    0x00080001: "Length to End",
    0x00880200: "Icon Image Sequence",
    0x01000410: "SOP Instance Status",
    0x04000402: "Referenced Digital Signature Sequence",
    0x04000403: "Referenced SOP Instance MAC Sequence",
    0x4FFE0001: "MAC Parameters Sequence",
    0xFFFAFFFA: "Digital Signatures Sequence",
}
CONTRIBUTION = "Copied with its references mapped to protected instances; plan and protector"
# What the copy says of itself.
OWN = {0x00080012, 0x00080013, h.SOP_INSTANCE_UID, h.SERIES_UID, h.EQUIPMENT}


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHeader:
    """Where an object belongs; `kind` is what people call its SOP class."""

    path: Path
    kind: str
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    modality: str = ""
    study_date: str = ""


def object_header(file: Part10, path: Path) -> ObjectHeader:
    """Return the header of an object of a class in COPIED.

    Raises
    ------
    BadUid, AlreadyProtected, UnsupportedPixels
    """
    identity = h.identity_of(file)
    for tag in (h.SOP_INSTANCE_UID, h.SERIES_UID, h.STUDY_UID):
        if not h.text_of(file, tag):
            raise BadUid(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or empty; not copied")
    if h.is_protected(file):
        raise AlreadyProtected("written by salm_dicom; protect the source instead")
    _check_pixels(file, identity.sop_class)
    return ObjectHeader(
        path=path,
        kind=COPIED[identity.sop_class],
        sop_class=identity.sop_class,
        sop_uid=identity.sop_uid,
        series_uid=identity.series_uid,
        study_uid=h.text_of(file, h.STUDY_UID),
        patient_id=h.text_of(file, h.PATIENT_ID),
        modality=modality(h.text_of(file, h.MODALITY)),
        study_date=h.text_of(file, h.STUDY_DATE),
    )


def _check_pixels(file: Part10, sop_class: str) -> None:
    """Raise when an object has pixels that its class does not have: they could be an image."""
    has_pixels = h.ROWS in file or any(s.tag >> 16 == FIRST_PIXEL_TAG >> 16 for s in file.spans)
    if has_pixels and sop_class not in _WITH_PIXELS:
        raise UnsupportedPixels(f"{UID(sop_class).name} with pixels in it; it is not copied")


def copied(file: Part10, new: NewUid, created: datetime, digest: str) -> bytes:
    """Return an object as a new instance that points at the protected ones.

    Parameters
    ----------
    new
        New UID of every instance and series that changes, this object's own included.
    created
        When the run began: Instance Creation Date and Time, Contribution Date Time.
    digest
        Of plan and protector.

    Raises
    ------
    MismatchError
        The copy is not what was meant.
    InputError
        The object cannot be parsed completely, or holds pixels that its class does not have.
    """
    identity = h.identity_of(file)
    _check_pixels(file, identity.sop_class)
    code = Encoding.of(file)
    changes = replaced(file, new, dropped=STALE)
    sop_uid = new(identity.sop_uid)
    is_unknown = file.vr(h.EQUIPMENT) == "UN"  # its items are implicit little endian
    item = provenance.equipment_item(
        IMPLICIT_LITTLE if is_unknown else code, f"{CONTRIBUTION} {digest[:32]}", created
    )
    old = value_after(file, changes, h.EQUIPMENT)
    changes |= {
        0x00080012: code.element(0x00080012, "DA", created.strftime("%Y%m%d")),
        0x00080013: code.element(0x00080013, "TM", created.strftime("%H%M%S")),
        h.SOP_INSTANCE_UID: code.element(h.SOP_INSTANCE_UID, "UI", sop_uid),
        h.SERIES_UID: code.element(h.SERIES_UID, "UI", new(identity.series_uid)),
        h.EQUIPMENT: code.element(h.EQUIPMENT, "UN" if is_unknown else "SQ", old + item),
    }
    meta = file_meta(identity.sop_class, sop_uid, file.transfer_syntax, __version__)
    data = splice(file, changes, meta)
    _check_copy(file, parse(data), new)
    return data


def _check_copy(source: Part10, copy: Part10, new: NewUid) -> None:
    """Raise `MismatchError` unless the copy is the source with its UIDs replaced."""
    differences, pairs = compare_objects(source, copy)
    wrong = sum(new(before) != after for before, after in pairs)
    if wrong:
        differences.append(Difference("REFERENCE", f"{wrong} UIDs are not what was meant"))
    if differences:
        raise MismatchError("; ".join(f"{d.code}: {d.text}" for d in differences[:5]))


def compare_objects(source: Part10, copy: Part10) -> tuple[list[Difference], list[UidPair]]:
    """Return what else than UIDs differs between an object and its copy, and each pair of UIDs.

    Raises
    ------
    ParseError
        pydicom cannot decode one of them completely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            differences, pairs = compare(source.dataset, copy.dataset, but=OWN, gone=STALE)
    except InputError:
        raise
    except Exception as error:
        raise ParseError(f"an element cannot be parsed ({type(error).__name__})") from error
    if (
        copy.transfer_syntax != source.transfer_syntax
        or text(copy.meta.get(h.META_SOP_UID, b"")) != h.identity_of(copy).sop_uid
        or text(copy.meta.get(h.META_SOP_CLASS_UID, b"")) != h.identity_of(source).sop_class
    ):
        differences.append(Difference("META_UID", "the file meta information is not the object's"))
    if not h.is_protected(copy):
        differences.append(
            Difference("NO_PROVENANCE", "(0018,A001) Contributing Equipment does not name us")
        )
    for tag in (h.SOP_INSTANCE_UID, h.SERIES_UID):
        pairs.append((h.text_of(source, tag), h.text_of(copy, tag)))
    return differences, pairs
