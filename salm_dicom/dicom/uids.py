"""New UIDs: which are never replaced, and how new ones are computed from a source's."""

from __future__ import annotations

import hashlib
import hmac

from pydicom.datadict import keyword_dict

# Never replaced, whatever they hold: classes, the study and frames of reference are kept, and a
# careless anonymiser can have given one of them the UID of a series.
_KEPT_NAMES = ("StudyInstanceUID", "FrameOfReference", "SOPClass", "TransferSyntax")
KEPT = {tag for name, tag in keyword_dict.items() if any(kept in name for kept in _KEPT_NAMES)}


def new_uid(site_key: bytes, digest: str, level: str, source_uid: str) -> str:
    """Return the new UID for a source UID: same inputs, same UID.

    `2.25.` and the integer of a version 8 UUID (RFC 9562) from HMAC-SHA256; PS3.5 B.2.
    """
    message = "\0".join((digest, level, source_uid)).encode()
    number = int.from_bytes(hmac.new(site_key, message, hashlib.sha256).digest()[:16])
    number = number & ~(0xF << 76) | (8 << 76)
    return f"2.25.{number & ~(0b11 << 62) | (0b10 << 62)}"
