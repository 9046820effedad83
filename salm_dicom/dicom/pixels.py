"""Data sets to stored values: colour, sign, bits, padding, rescale; and what is not supported."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom.codestreams import check_codestreams, check_ratio
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.regions import ultrasound_regions
from salm_dicom.dicom.samples import DECODED, MONOCHROME, Shape, luminance
from salm_dicom.dicom.samples import room as colour_room
from salm_dicom.dicom.sandbox import decoded
from salm_dicom.errors import (
    BadValue,
    MissingTag,
    NonLinearRescale,
    NotImage,
    TooLarge,
    Truncated,
    UnsupportedPixels,
)
from salm_dicom.volume import Integers

PIXEL_DATA = 0x7FE00010
_PADDING_VALUE = 0x00280120
_PADDING_LIMIT = 0x00280121
_INTERCEPT = 0x00281052
_SLOPE = 0x00281053
_MODALITY_LUT = 0x00283000
_PROVIDER_URL = 0x00287FE0
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
# Longest value of an element; 0xFFFFFFFF means an undefined length (PS3.5 7.1.1).
_MOST_BYTES = 0xFFFFFFFE


def stored_values(file: Part10) -> Integers:
    """Return the stored values of an image, (rows, columns), or (frames, rows, columns).

    Of a colour image the luminance, see `samples`. Never inverts MONOCHROME1, never applies slope,
    intercept or a look-up table. Raw words are taken as they are; anything compressed is decoded
    by pydicom and its plug-ins, frame by frame.

    Raises
    ------
    NotImage, MissingTag, UnsupportedPixels, NonLinearRescale, Truncated, DecodeError
    """
    check_pixels(file)
    shape = Shape.of(file)
    if shape.samples > 1:
        values = luminance(*words_of(file))
    elif file.transfer_syntax.is_encapsulated:
        values = _decoded(file, shape)
    else:
        values = raw_values(file).reshape(shape.pixels)
    return values if shape.frames > 1 else values[0]


def room(file: Part10) -> Integers | None:
    """Return how far each pixel can go, shape of `stored_values`; None if Bits Stored says it all.

    Outside the regions that an ultrasound device lists nothing may change: that is where it
    writes names, dates and measurements.
    """
    shape = Shape.of(file)
    free = colour_room(*words_of(file)) if shape.samples > 1 else None
    inside = ultrasound_regions(file)
    if inside is not None:
        most = np.iinfo(np.uint8 if h.short_of(file, h.BITS_ALLOCATED) == 8 else np.uint16).max
        free = np.full(shape.pixels, most, dtype=np.min_scalar_type(most)) if free is None else free
        free[:, ~inside] = 0
    return free if free is None or shape.frames > 1 else free[0]


def words_of(file: Part10) -> tuple[Integers, Shape]:
    """Return the words of an image, flat, and how they lie: as stored, or as decoded."""
    shape = Shape.of(file)
    if file.transfer_syntax.is_encapsulated:
        return _decoded(file, shape).reshape(-1), shape.decoded()
    return source_words(file), shape


def _decoded(file: Part10, shape: Shape) -> Integers:
    """Return decoded words; before a decoder sees them, their sizes are checked."""
    available = len(file.view(PIXEL_DATA))
    if available < 8 * shape.frames:
        raise Truncated(f"{shape.frames} frames are declared, more than the pixel data can hold")
    check_ratio(file, raw_bytes(file), available)
    check_codestreams(file, shape)
    return decoded(file, shape)


def raw_values(file: Part10) -> Integers:
    """Return raw monochrome words, flat, in the pixels' sign, without bits above Bits Stored."""
    words = source_words(file)
    stored, allocated = h.short_of(file, h.BITS_STORED), words.dtype.itemsize * 8
    signed = np.dtype(f"i{words.dtype.itemsize}")
    if h.short_of(file, h.PIXEL_REPRESENTATION):
        values = words.view(signed)
        if stored < allocated:
            values = (words << (allocated - stored)).view(signed) >> (allocated - stored)
        return values
    return words if stored == allocated else words & ((1 << stored) - 1)


def source_words(file: Part10) -> Integers:
    """Return the words of uncompressed Pixel Data in the machine's byte order, flat, unsigned."""
    data, needed = file.view(PIXEL_DATA), raw_bytes(file)
    if len(data) < needed:
        raise Truncated(f"the pixel data has {len(data)} bytes; {needed} are needed")
    kind = word_type(file)
    if kind.itemsize == 1 and is_swapped(file):
        return np.frombuffer(swapped(data), kind, needed)
    words: Integers = np.frombuffer(data, kind, needed // kind.itemsize)
    return words.astype(words.dtype.newbyteorder("="), copy=False)


def word_type(file: Part10) -> np.dtype[np.unsignedinteger]:
    """Return the type of one word of uncompressed Pixel Data (PS3.5 8.1, A.2, A.3)."""
    size = h.short_of(file, h.BITS_ALLOCATED) // 8
    return np.dtype(f"{'>' if is_swapped(file) else '<'}u{size}")


def is_swapped(file: Part10) -> bool:
    """Return whether uncompressed Pixel Data is big endian words; 8-bit pixels lie two in one."""
    return not file.is_little_endian and file.vr(PIXEL_DATA) == "OW"


def swapped(data: bytes | memoryview) -> bytes:
    """Return 16-bit words in the other byte order."""
    return np.frombuffer(data, np.uint16, len(data) // 2).byteswap().tobytes()


def check_pixels(file: Part10) -> None:
    """Raise the code that says why this data set has no pixels that can be protected, if so."""
    check_pixel_tag(next((t for t in (*_FLOAT_PIXELS, PIXEL_DATA) if t in file), 0), file)
    check_format(file)


def check_pixel_tag(tag: int, header: Part10) -> None:
    """Raise the code that says why `tag`, the first after a header, holds no usable pixels."""
    if tag in _FLOAT_PIXELS:
        raise UnsupportedPixels("float pixel data; only integers can be protected exactly")
    if _PROVIDER_URL in header:
        raise UnsupportedPixels("the pixel data lies at a URL; nothing is fetched")
    if tag != PIXEL_DATA:
        raise NotImage("the object has no pixel data")


def check_format(file: Part10) -> None:
    """Raise the code that says why pixels as the header describes them are not supported, if so."""
    allocated, stored = h.short_of(file, h.BITS_ALLOCATED), h.short_of(file, h.BITS_STORED)
    if allocated not in (8, 16):
        raise UnsupportedPixels(f"Bits Allocated {allocated}; 8 or 16 are supported")
    if not 1 < stored <= allocated:
        raise BadValue(f"Bits Stored {stored} does not fit Bits Allocated {allocated}")
    if not h.short_of(file, h.ROWS) * h.short_of(file, h.COLUMNS):
        raise BadValue("Rows or Columns is 0")
    if h.HIGH_BIT in file and h.short_of(file, h.HIGH_BIT) != stored - 1:
        raise UnsupportedPixels("High Bit is not the last of Bits Stored")
    if h.short_of(file, h.PIXEL_REPRESENTATION) not in (0, 1):
        raise BadValue("(0028,0103) Pixel Representation is neither 0 nor 1")
    if _MODALITY_LUT in file:
        raise NonLinearRescale("a Modality LUT Sequence maps stored values non-linearly")
    _check_colour(file)
    if raw_bytes(file) > _MOST_BYTES:
        raise TooLarge(f"{raw_bytes(file)} bytes of pixels; DICOM can hold {_MOST_BYTES} in a file")


def _check_colour(file: Part10) -> None:
    """Raise the code that says why the colour model is not supported, if so."""
    photometric, samples = h.text_of(file, h.PHOTOMETRIC), h.short_of(file, h.SAMPLES)
    if not photometric:
        raise MissingTag("(0028,0004) Photometric Interpretation is missing or empty")
    if photometric in MONOCHROME:
        if samples != 1:
            raise BadValue(f"a monochrome image with {samples} samples for each pixel")
        return
    if photometric == "PALETTE COLOR":
        raise UnsupportedPixels("PALETTE COLOR: the next index is another colour")
    if photometric not in DECODED:
        raise UnsupportedPixels("the Photometric Interpretation is not one that can be protected")
    if samples != 3:
        raise UnsupportedPixels(f"a colour image with {samples} samples for each pixel, not 3")
    if h.short_of(file, h.PIXEL_REPRESENTATION) or h.short_of(file, h.BITS_STORED) % 8:
        raise UnsupportedPixels("a colour image of signed or odd-sized samples")
    if h.short_of(file, h.PLANAR) not in (0, 1):
        raise BadValue("(0028,0006) Planar Configuration is neither 0 nor 1")
    if file.transfer_syntax.is_encapsulated:
        return
    if photometric in ("YBR_RCT", "YBR_ICT"):
        raise UnsupportedPixels("a JPEG 2000 colour model without JPEG 2000")
    is_odd = h.short_of(file, h.COLUMNS) % 2 or h.short_of(file, h.PLANAR)
    if photometric == "YBR_FULL_422" and is_odd:
        raise BadValue("YBR_FULL_422 by plane or with an odd number of columns")


def rescale(file: Part10) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 where the instance has none."""
    values = []
    for tag, default in ((_SLOPE, 1.0), (_INTERCEPT, 0.0)):
        text = h.text_of(file, tag)
        try:
            values.append(float(text) if text else default)
        except ValueError as error:
            raise BadValue(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not a number") from error
    check_rescale(*values)
    return values[0], values[1]


def check_rescale(slope: float, intercept: float) -> None:
    """Raise `BadValue` when a mapping loses all stored values or is no number."""
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise BadValue("rescale slope or intercept is not a finite number")
    if not slope:
        raise BadValue("rescale slope is 0; modality values would all be equal")


def padding(file: Part10) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that are Pixel Padding, or None."""
    first = _as_stored(file, _PADDING_VALUE)
    if first is None:
        return None
    last = _as_stored(file, _PADDING_LIMIT)
    last = first if last is None else last
    return min(first, last), max(first, last)


def raw_bytes(file: Part10) -> int:
    """Return how many bytes the pixels of all frames take without compression."""
    return Shape.of(file).words * h.short_of(file, h.BITS_ALLOCATED) // 8


def _as_stored(file: Part10, tag: int) -> int | None:
    """Return a "US or SS" attribute in the sign of the pixels."""
    value = file.value(tag)
    if len(value) < 2:
        return None
    is_signed = bool(h.short_of(file, h.PIXEL_REPRESENTATION))
    order: Literal["little", "big"] = "little" if file.is_little_endian else "big"
    return int.from_bytes(value[:2], order, signed=is_signed)
