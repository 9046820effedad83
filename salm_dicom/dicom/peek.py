"""The header of a file, without reading its pixels where that can be helped."""

from __future__ import annotations

import os
from pathlib import Path
from struct import unpack

from pydicom.uid import DeflatedExplicitVRLittleEndian

from salm_dicom.dicom.elements import FIRST_PIXEL_TAG, Unusual
from salm_dicom.dicom.part10 import Part10, parse, walked
from salm_dicom.errors import EmptyFile, Unreadable

# Most headers end within this many bytes.
_HEAD = 1 << 14


def read_header(path: Path) -> tuple[Part10, int, int]:
    """Return the elements before the pixel data, the next tag (0: none), and how many bytes follow.

    A deflated file is inflated first.
    """
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(_HEAD)
            file = _quick_header(data)
            if file is None:
                data += stream.read()
                file = parse(data, before=FIRST_PIXEL_TAG) if data else None
    except OSError as error:
        raise Unreadable(f"cannot be read ({type(error).__name__})") from error
    if file is None:
        raise EmptyFile("the file has no bytes")
    end = max((s.stop for s in file.spans if s.tag < FIRST_PIXEL_TAG), default=0)
    if file.transfer_syntax == DeflatedExplicitVRLittleEndian:
        size = len(file.data)
    next_tag = file.data[end : end + 4] if size >= end + 4 else bytes(4)
    group, element = unpack("<HH" if file.is_little_endian else ">HH", next_tag)
    return file, group << 16 | element, size - end


def _quick_header(data: bytes) -> Part10 | None:
    """Return the header if the first bytes of the file hold all of it."""
    try:
        if data[128:132] != b"DICM":
            return None
        file = walked(data, FIRST_PIXEL_TAG)
    except Unusual:
        return None
    return file if file.spans and file.spans[-1].stop < len(data) else None
