"""ProtectionRecord to standard attributes: the sentence and the sequence items a file carries.

No seed, key or surrogate name leaves the vault; the digest ties a file to its vault entry.
References: PS3.3 C.7.6.1 (General Image), C.12.1 (SOP Common), PS3.16 CID 7202, 7203, 7005.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from salm_dicom import __version__
from salm_dicom.dicom.header import PRODUCT, SERIES_UID, STUDY_UID, Identity
from salm_dicom.dicom.splice import Encoding
from salm_dicom.record import ProtectionRecord

MANUFACTURER = "salm_dicom project"
CONTRIBUTION = "Added a masked perturbation against unauthorised training"
DERIVATION_CODE = b"113042"
EQUIPMENT_CODE = b"109102"
_LARGEST = re.compile(r"largest change (\d+) stored units")


@lru_cache(maxsize=64)  # the same for all instances of a series
def sentence(record: ProtectionRecord) -> str:
    """Return the Derivation Description of a protected instance, ASCII, under 450 characters."""
    return (
        f"Protected against unauthorised training by {PRODUCT} {__version__}: method "
        f"{record.method}, {record.extent} extent, at most {record.rho * 100:.3g} % of foreground "
        f"voxels changed; largest change {record.largest_change_stored} stored units "
        f"({record.largest_change_modality:.4g} {record.units}){quantitative(record)}"
    )


def quantitative(record: ProtectionRecord) -> str:
    """Return what the sentence says of an image whose values are measurements; empty for others."""
    if not record.quantity:
        return ""
    return f". Quantitative values were changed ({record.quantity}): do not measure on this image"


def stated_largest_change(description: str) -> int | None:
    """Return the largest change in stored units that a Derivation Description states, or None."""
    found = _LARGEST.findall(description)
    return int(found[-1]) if found else None


@lru_cache(maxsize=64)  # the same for all instances of a series
def code_item(encoding: Encoding, value: bytes, meaning: str) -> bytes:
    """Return a code sequence item of the DICOM controlled terminology (PS3.16)."""
    return encoding.item(
        (
            encoding.element(0x00080100, "SH", value),
            encoding.element(0x00080102, "SH", "DCM"),
            encoding.element(0x00080104, "LO", meaning),
        )
    )


def derivation_code(encoding: Encoding) -> bytes:
    """Return the item of Derivation Code Sequence (0008,9215)."""
    return code_item(encoding, DERIVATION_CODE, "Pixel by pixel addition")


def source_image(encoding: Encoding, sop_class: str, sop_uid: str, frame: int = 0) -> bytes:
    """Return the item of Source Image Sequence (0008,2112) that names the source instance.

    Parameters
    ----------
    frame
        Number of the source's frame, from 1; 0 names all of the instance.
    """
    purpose = code_item(encoding, b"121322", "Source image for image processing operation")
    return encoding.item(
        (
            encoding.element(0x00081150, "UI", sop_class),
            encoding.element(0x00081155, "UI", sop_uid),
            encoding.element(0x00081160, "IS", str(frame)) if frame else b"",
            encoding.element(0x0028135A, "CS", "YES"),
            encoding.element(0x0040A170, "SQ", purpose),
        )
    )


def derivation_image(
    encoding: Encoding, source: Identity, record: ProtectionRecord, frame: int
) -> bytes:
    """Return the item of Derivation Image Sequence (0008,9124) of one frame.

    References: PS3.3 C.7.6.16.2.6 (Derivation Image Macro).
    """
    image = source_image(encoding, source.sop_class, source.sop_uid, frame)
    return encoding.item(
        (
            encoding.element(0x00082111, "ST", sentence(record)),
            encoding.element(0x00082112, "SQ", image),
            encoding.element(0x00089215, "SQ", derivation_code(encoding)),
        )
    )


def evidence(encoding: Encoding, study_uid: str, source: Identity) -> bytes:
    """Return the item of Source Image Evidence Sequence (0008,9154) that names the source.

    References: PS3.3 10.3 (SOP Instance Reference), C.8.13.1 (Source Image Evidence Sequence).
    """
    return encoding.item(
        (
            encoding.element(0x00081115, "SQ", _by_series(encoding, 0x00081199, source)),
            encoding.element(STUDY_UID, "UI", study_uid),
        )
    )


def referenced_series(encoding: Encoding, source: Identity) -> bytes:
    """Return the item of Referenced Series Sequence (0008,1115) that names the source.

    Reference: PS3.3 C.12.2 (Common Instance Reference).
    """
    return _by_series(encoding, 0x0008114A, source)


def _by_series(encoding: Encoding, tag: int, source: Identity) -> bytes:
    """Return an item that names the source in its series; `tag` holds the instances."""
    instance = encoding.item(
        (
            encoding.element(0x00081150, "UI", source.sop_class),
            encoding.element(0x00081155, "UI", source.sop_uid),
        )
    )
    return encoding.item(
        (
            encoding.element(tag, "SQ", instance),
            encoding.element(SERIES_UID, "UI", source.series_uid),
        )
    )


def equipment(encoding: Encoding, record: ProtectionRecord, created: datetime) -> bytes:
    """Return the item of Contributing Equipment Sequence (0018,A001) that names this software."""
    text = f"{CONTRIBUTION}; plan and protector {record.digest[:32]}"
    return equipment_item(encoding, text, created)


@lru_cache(maxsize=64)  # the same for all instances of a series
def equipment_item(encoding: Encoding, contribution: str, created: datetime) -> bytes:
    """Return an item of Contributing Equipment Sequence (0018,A001): this software did that."""
    stamp = created.strftime("%Y%m%d%H%M%S") + (created.strftime("%z") or "")
    purpose = code_item(encoding, EQUIPMENT_CODE, "Processing Equipment")
    return encoding.item(
        (
            encoding.element(0x00080070, "LO", MANUFACTURER),
            encoding.element(0x00081090, "LO", PRODUCT),
            encoding.element(0x00181020, "LO", __version__),
            encoding.element(0x0018A002, "DT", stamp),
            encoding.element(0x0018A003, "ST", contribution),
            encoding.element(0x0040A170, "SQ", purpose),
        )
    )
