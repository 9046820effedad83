"""Put changed elements into a file's bytes; every unchanged element keeps its own.

Re-encoding elements that nobody touched is what makes writing slow and what alters them. Here the
output is the source with some spans replaced, so unchanged attributes are identical by
construction (private tags, odd encodings and bad values included).

References: PS3.5 7.1 (data elements), 7.5 (sequences); PS3.10 7.1 (file meta information).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import pack

from pydicom.uid import UID, DeflatedExplicitVRLittleEndian
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from salm_dicom.dicom.deflate import deflated
from salm_dicom.dicom.elements import ITEM, SEQUENCE_END, UNDEFINED, walk
from salm_dicom.dicom.part10 import TRANSFER_SYNTAX, Part10
from salm_dicom.errors import MismatchError


@dataclass(frozen=True, slots=True)
class Encoding:
    """How elements of one data set are encoded."""

    implicit: bool
    little: bool

    @classmethod
    def of(cls, file: Part10) -> Encoding:
        """Return the encoding of the file's data set."""
        return cls(file.is_implicit_vr, file.is_little_endian)

    def element(self, tag: int, vr: str, value: bytes | str, *, undefined: bool = False) -> bytes:
        """Return one encoded element, padded to an even length; text is as from `part10.text`."""
        if isinstance(value, str):
            value = value.encode("latin-1")  # a UID of a strange source may be no ASCII
        if len(value) % 2:
            value += b"\0" if vr in ("UI", "OB", "OW", "UN") else b" "
        length = UNDEFINED if undefined else len(value)
        end = self._bare(SEQUENCE_END, 0) if undefined else b""
        if self.implicit:
            return b"".join((self._bare(tag, length), value, end))
        if length > 0xFFFE and vr not in EXPLICIT_VR_LENGTH_32:
            raise MismatchError(f"a value of {length} bytes; {vr} can hold 65534 (PS3.5 7.1.2)")
        order = "<" if self.little else ">"
        start = pack(f"{order}HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
        size = (
            pack(f"{order}HL", 0, length)
            if vr in EXPLICIT_VR_LENGTH_32
            else pack(f"{order}H", length)
        )
        return b"".join((start, size, value, end))

    def item(self, elements: Iterable[bytes]) -> bytes:
        """Return one sequence item that holds `elements`."""
        value = b"".join(elements)
        return self._bare(ITEM, len(value)) + value

    def unsigned_short(self, value: int) -> bytes:
        """Return the two bytes of a US or SS value."""
        return pack("<H" if self.little else ">H", value & 0xFFFF)

    def _bare(self, tag: int, length: int) -> bytes:
        return pack("<HHL" if self.little else ">HHL", tag >> 16, tag & 0xFFFF, length)


EXPLICIT_LITTLE = Encoding(implicit=False, little=True)
IMPLICIT_LITTLE = Encoding(implicit=True, little=True)


def splice(
    file: Part10, changes: Mapping[int, bytes | None], meta: Mapping[int, tuple[str, bytes | str]]
) -> bytes:
    """Return a DICOM file: `file` with `changes` made and new file meta information.

    Parameters
    ----------
    changes
        Encoded element by tag; None removes it. Retired group lengths of changed groups go too,
        for they would be wrong.
    meta
        VR and value of each file meta element, without group length.
    """
    touched = {tag >> 16 for tag in changes}
    new = sorted((tag, data) for tag, data in changes.items() if data is not None)
    parts: list[bytes | memoryview] = [b"\0" * 128, b"DICM", _meta(meta)]
    view = memoryview(file.data)
    for span in file.spans:
        while new and new[0][0] < span.tag:
            parts.append(new.pop(0)[1])
        if span.tag in changes:
            if new and new[0][0] == span.tag:
                parts.append(new.pop(0)[1])
            continue
        if span.tag & 0xFFFF == 0 and span.tag >> 16 in touched:
            continue
        parts.append(view[span.start : span.stop])
    parts.extend(data for _, data in new)
    if meta[TRANSFER_SYNTAX][1] == DeflatedExplicitVRLittleEndian:
        return b"".join([*parts[:3], deflated(b"".join(parts[3:]))])
    return b"".join(parts)


def value_after(file: Part10, changes: Mapping[int, bytes | None], tag: int) -> bytes:
    """Return the value that a top-level element has once `changes` are made."""
    if tag not in changes:
        return file.value(tag)
    element = changes[tag]
    if element is None:
        return b""
    (span,) = walk(element, 0, implicit=file.is_implicit_vr, little=file.is_little_endian)
    return element[span.value : span.value_stop]


def _meta(elements: Mapping[int, tuple[str, bytes | str]]) -> bytes:
    body = b"".join(
        EXPLICIT_LITTLE.element(tag, vr, value) for tag, (vr, value) in sorted(elements.items())
    )
    return EXPLICIT_LITTLE.element(0x00020000, "UL", pack("<L", len(body))) + body


def file_meta(
    sop_class: str, sop_uid: str, syntax: UID, version: str
) -> dict[int, tuple[str, bytes | str]]:
    """Return our file meta information; no AE titles, no private information."""
    return {
        0x00020001: ("OB", b"\0\1"),
        0x00020002: ("UI", sop_class),
        0x00020003: ("UI", sop_uid),
        0x00020010: ("UI", str(syntax)),
        0x00020012: ("UI", IMPLEMENTATION_CLASS_UID),
        0x00020013: ("SH", f"SALM_DICOM_{version}"[:16]),
    }


# Made once with uuid4 for this project; PS3.5 B.2 (UUID derived UID).
IMPLEMENTATION_CLASS_UID = "2.25.156146172288918584895336175226138031158"
