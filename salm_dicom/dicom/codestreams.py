"""What compressed pixel data says of its own size, before a decoder allocates what it says.

A decoder believes the header of the codestream, not that of the data set: a few bytes can ask for
gigabytes. Both must agree, and the pixels must be able to come from so few bytes.

References: ITU-T T.81 B.2.2 (JPEG frame header), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000 SIZ);
PS3.5 G.3.1 (RLE: two bytes are at most 128).
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import error as StructError
from struct import unpack_from

from pydicom.encaps import generate_frames
from pydicom.uid import RLELossless

from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.samples import Shape
from salm_dicom.errors import Bomb, DecodeError

_PIXEL_DATA = 0x7FE00010
_RLE_RATIO = 64
# Pixels may take this many bytes, and this many for each compressed one. Blank images are small:
# 512 frames of 512 x 512 x 16 bits are 256 MB, and a blank frame has a hundred bytes of headers.
_FREE = 256 << 20
_RATIO = 512
_JPEG, _JPEG_2000 = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
# Start of frame: all of JPEG but DHT, JPG and DAC, which lie between; and JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def check_ratio(file: Part10, pixel_bytes: int, available: int) -> None:
    """Raise when compressed pixel data cannot, or should not, become what the header declares.

    Parameters
    ----------
    pixel_bytes
        Of all frames, without compression.
    available
        Bytes of compressed pixel data.

    Raises
    ------
    DecodeError, Bomb
    """
    if file.transfer_syntax == RLELossless and pixel_bytes > _RLE_RATIO * available:
        raise DecodeError(f"{available} bytes of RLE cannot hold the {pixel_bytes} of the pixels")
    most = _FREE + _RATIO * available
    if pixel_bytes > most:
        raise Bomb(f"{available} compressed bytes become {pixel_bytes}; no image does that")


def check_codestreams(file: Part10, shape: Shape) -> None:
    """Raise when a frame's own header gives another size than the data set's.

    Raises
    ------
    DecodeError
    """
    for frame in _frames(file, shape):
        found = declared_size(frame)
        if found is not None and found != (shape.rows, shape.columns):
            raise DecodeError(
                f"a compressed frame says that it has {found[0]} x {found[1]} pixels, the header "
                f"{shape.rows} x {shape.columns}"
            )


def declared_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns by the header of a codestream; None if it does not say or is odd."""
    try:
        if frame.startswith(_JPEG_2000):
            right, bottom, left, top = unpack_from(">4L", frame, 8)
            return bottom - top, right - left
        return _jpeg_size(frame) if frame.startswith(_JPEG) else None
    except StructError:  # it ends too early; the decoder says so
        return None


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    position = 2
    while frame[position : position + 1] == b"\xff":
        marker, length = unpack_from(">BH", frame, position + 1)
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in _FRAME_MARKERS:
            rows, columns = unpack_from(">HH", frame, position + 5)
            return rows, columns
        position += 2 + length
    return None


def _frames(file: Part10, shape: Shape) -> Iterator[bytes]:
    try:
        yield from generate_frames(file.value(_PIXEL_DATA), number_of_frames=shape.frames)
    except (ValueError, StructError) as error:
        raise DecodeError(f"the frames cannot be found ({type(error).__name__})") from error
