"""What was read of a file as a row of a catalog, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.nifti.scan import NiftiFile

T = TypeVar("T", InstanceHeader, ObjectHeader, NiftiFile)
# Kind, SOP Instance UID, digest of the volume key, header.
Row = tuple[str, str, bytes | None, str]
_NAMES: dict[type[Any], tuple[str, ...]] = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (InstanceHeader, ObjectHeader, NiftiFile)
}


def row_of(found: InstanceHeader | ObjectHeader) -> Row:
    """Return what `Catalog.add` takes."""
    if isinstance(found, ObjectHeader):
        return "object", found.sop_uid, None, packed(found)
    volume = blake2b(repr(found.volume_key).encode(), digest_size=16).digest()
    return "image", found.sop_uid, volume, packed(found)


def packed(one: InstanceHeader | ObjectHeader | NiftiFile) -> str:
    """Return a header as JSON, its fields in order."""
    return json.dumps([_plain(getattr(one, name)) for name in _NAMES[type(one)]])


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def unpacked(text: str, kind: type[T]) -> T:
    """Return what `packed` made a text of."""
    values = [tuple(one) if isinstance(one, list) else one for one in json.loads(text)]
    by_name: dict[str, Any] = dict(zip(_NAMES[kind], values, strict=True))
    by_name["path"] = Path(by_name["path"])
    return kind(**by_name)
