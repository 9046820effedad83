"""Header and bytes of a derived instance: what changes, attribute by attribute (write policy)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydicom.charset import convert_encodings, encode_string

from salm_dicom import __version__
from salm_dicom.dicom import functional_groups as groups
from salm_dicom.dicom import header as h
from salm_dicom.dicom import pixels, provenance
from salm_dicom.dicom.encode import encode
from salm_dicom.dicom.frames import PER_FRAME
from salm_dicom.dicom.items import appended
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.dicom.references import replaced
from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.samples import Shape
from salm_dicom.dicom.splice import Encoding, file_meta, splice
from salm_dicom.dicom.uids import new_uid
from salm_dicom.dicom.writers import writer_of
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers

# Stale, void or untrue in a derived instance (write policy).
REMOVED = {
    0x00080001: "Length to End",
    0x00880200: "Icon Image Sequence",
    0x4FFE0001: "MAC Parameters Sequence",
    0x01000410: "SOP Instance Status",
    0xFFFAFFFA: "Digital Signatures Sequence",
    0x7FE00001: "Extended Offset Table",
    0x7FE00002: "Extended Offset Table Lengths",
}
ENCRYPTED = 0x04000500
# Used where a site gives no key: new UIDs can then be computed from old ones by anyone, which a
# file reveals anyway as long as its Source Image Sequence names the source.
PUBLIC_SITE_KEY = b"salm_dicom"
_LEAST = 0x00280106
_MOST = 0x00280107
_SERIES_DESCRIPTION = 0x0008103E
_DERIVATION = 0x00082111
_SERIES_SUFFIX = " SALM"
_SERIES_NUMBER_STEP = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Derivation:
    """What all derived instances of one series share.

    Parameters
    ----------
    record
        What was done; its digest is part of every new UID.
    created
        When the run began; Instance Creation Date and Time, and Contribution Date Time.
    site_key
        Key of the UIDs' HMAC: who lacks it cannot compute new UIDs from old ones.
    references
        New UIDs of the other instances and series that the images may point at.
    recipients
        Certificates, DER, of those who can restore the source from the derived instance alone.
    deidentified
        Makes of a source what the derived instance is made from; None takes it as it is.
    """

    record: ProtectionRecord
    created: datetime
    site_key: bytes
    references: NewUid = str
    recipients: tuple[bytes, ...] = ()
    deidentified: Callable[[Part10], Part10] | None = None

    def uid(self, level: str, source_uid: str) -> str:
        """Return the new UID for a source UID: same inputs, same UID."""
        return new_uid(self.site_key, self.record.digest, level, source_uid)


def derived(file: Part10, values: Integers, derivation: Derivation) -> bytes:
    """Return the protected instance as a DICOM file.

    Parameters
    ----------
    file
        The source instance.
    values
        Its stored values after the change, in the shape of `pixels.stored_values`.
    """
    code = Encoding.of(file)
    source = h.identity_of(file)
    sop_uid = derivation.uid("instance", source.sop_uid)
    series_uid = derivation.uid("series", source.series_uid)
    syntax, data, encapsulated = encode(file, values)
    record, created = derivation.record, derivation.created
    way_back = _way_back(file, values, derivation)
    file = _referring(file, source, derivation.references)
    changes: dict[int, bytes | None] = {
        h.IMAGE_TYPE: code.element(h.IMAGE_TYPE, "CS", _derived_type(file)),
        0x00080012: code.element(0x00080012, "DA", created.strftime("%Y%m%d")),
        0x00080013: code.element(0x00080013, "TM", created.strftime("%H%M%S")),
        h.SOP_INSTANCE_UID: code.element(h.SOP_INSTANCE_UID, "UI", sop_uid),
        _SERIES_DESCRIPTION: code.element(_SERIES_DESCRIPTION, "LO", _series_description(file)),
        h.EQUIPMENT: appended(
            file, h.EQUIPMENT, lambda c: provenance.equipment(c, record, created)
        ),
        h.SERIES_UID: code.element(h.SERIES_UID, "UI", series_uid),
        0x00200011: code.element(0x00200011, "IS", _series_number(file)),
        pixels.PIXEL_DATA: code.element(
            pixels.PIXEL_DATA, _pixel_vr(file, encapsulated), data, undefined=encapsulated
        ),
    }
    if PER_FRAME in file:
        changes |= groups.changes(file, source, record, values.reshape(Shape.of(file).pixels))
    else:
        changes |= _said_at_the_top(file, source, record)
    if writer_of(source.sop_class).lists_references:
        changes[0x00081115] = appended(
            file, 0x00081115, lambda c: provenance.referenced_series(c, source)
        )
    if syntax != file.transfer_syntax:
        changes |= _colour_as_decoded(file, code, encapsulated)
    for tag, extreme in ((_LEAST, values.min()), (_MOST, values.max())):
        if Shape.of(file).samples > 1:
            changes[tag] = None  # of which colour would it be
        elif file.value(tag):
            vr = "SS" if h.short_of(file, h.PIXEL_REPRESENTATION) else "US"
            changes[tag] = code.element(tag, vr, code.unsigned_short(int(extreme)))
    changes |= _filled(file, source, derivation, code)
    changes |= dict.fromkeys(REMOVED) | way_back
    return splice(file, changes, file_meta(source.sop_class, sop_uid, syntax, __version__))


def _referring(file: Part10, source: h.Identity, new: NewUid) -> Part10:
    """Return the instance with every reference of it mapped; its own UIDs are set elsewhere."""
    mapped = replaced(file, new)
    for own in (h.SOP_INSTANCE_UID, h.SERIES_UID, *REMOVED):
        mapped.pop(own, None)
    if not mapped:
        return file
    meta = file_meta(source.sop_class, source.sop_uid, file.transfer_syntax, __version__)
    return parse(splice(file, mapped, meta))


def _way_back(file: Part10, values: Integers, derivation: Derivation) -> dict[int, bytes | None]:
    """Return the envelope that restores the source, if somebody is to get one."""
    if not derivation.recipients:
        return {}
    from salm_dicom.dicom.recovery import encrypted_attributes  # wants an extra

    delta = values.astype(np.int32) - pixels.stored_values(file).reshape(values.shape)
    return {ENCRYPTED: encrypted_attributes(file, delta, derivation.recipients)}


def _said_at_the_top(
    file: Part10, source: h.Identity, record: ProtectionRecord
) -> dict[int, bytes | None]:
    """Return how the instance was derived, for one without functional groups."""
    description = _derivation_description(file, record)
    return {
        _DERIVATION: Encoding.of(file).element(_DERIVATION, "ST", description),
        0x00082112: appended(
            file,
            0x00082112,
            lambda c: provenance.source_image(c, source.sop_class, source.sop_uid),
        ),
        0x00089215: appended(file, 0x00089215, provenance.derivation_code),
    }


def _colour_as_decoded(file: Part10, code: Encoding, is_rle: bool) -> dict[int, bytes | None]:
    """Return what describes colour that a decoder gave: its model, and how its samples lie.

    By pixel; by plane in RLE, which is how that lays them down.
    """
    shape = Shape.of(file)
    if shape.samples == 1:
        return {}
    return {
        h.PHOTOMETRIC: code.element(h.PHOTOMETRIC, "CS", shape.decoded().photometric),
        h.PLANAR: code.element(h.PLANAR, "US", code.unsigned_short(int(is_rle))),
    }


def _filled(
    file: Part10, source: h.Identity, derivation: Derivation, code: Encoding
) -> dict[int, bytes | None]:
    """Return the UIDs an instance must have and that a careless anonymiser emptied."""
    wanted = {
        h.SOP_CLASS_UID: source.sop_class,
        h.STUDY_UID: derivation.uid("study", source.series_uid),
    }
    return {
        tag: code.element(tag, "UI", uid) for tag, uid in wanted.items() if not h.text_of(file, tag)
    }


def _derived_type(file: Part10) -> bytes:
    rest = file.value(h.IMAGE_TYPE).rstrip(b" \0").split(b"\\")[1:]
    return b"\\".join([b"DERIVED", *(rest or [b"PRIMARY"])])


def _series_description(file: Part10) -> bytes:
    """Return the description with our suffix, cut to the 64 characters of an LO."""
    room = 64 - len(_SERIES_SUFFIX)
    old = file.value(_SERIES_DESCRIPTION).rstrip(b" \0")
    if old.isascii() and b"\x1b" not in old:
        return old[:room] + _SERIES_SUFFIX.encode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = file.dataset[_SERIES_DESCRIPTION].value
            text = value if isinstance(value, str) else "\\".join(value)
            names = file.dataset.get("SpecificCharacterSet")
            return encode_string(text[:room] + _SERIES_SUFFIX, convert_encodings(names))
    except (UserWarning, LookupError, UnicodeError):
        return old[:room] + _SERIES_SUFFIX.encode()  # the character set is broken, not the text


def _derivation_description(file: Part10, record: ProtectionRecord) -> bytes:
    """Return the old description, if there is room for it, and ours."""
    old = file.value(_DERIVATION).rstrip(b" \0")
    ours = provenance.sentence(record).encode("ascii")
    if old and len(old) + len(ours) + 2 <= 1024:
        return old + b"; " + ours
    return ours


def _series_number(file: Part10) -> str:
    text = file.value(0x00200011).strip(b" \0").decode("latin-1")
    try:
        number = int(text or 0) + _SERIES_NUMBER_STEP
    except ValueError:
        return str(_SERIES_NUMBER_STEP)
    return str(number if -(2**31) <= number < 2**31 else _SERIES_NUMBER_STEP)


def _pixel_vr(file: Part10, encapsulated: bool) -> str:
    """Return the VR of Pixel Data: OB where encapsulated, the source's where it stays raw words."""
    if encapsulated:
        return "OB"
    vr = file.vr(pixels.PIXEL_DATA)
    return vr if vr in ("OB", "OW") and not file.transfer_syntax.is_encapsulated else "OW"
