"""Data sets to StoredPixels and back: sign, bits, padding, rescale, encoding."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, ExplicitVRLittleEndian

from salm_dicom.dicom import header as h
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.writers import ENCODERS
from salm_dicom.errors import (
    BadValue,
    DecodeError,
    MissingTag,
    NonLinearRescale,
    NotImage,
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
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)


def stored_values(file: Part10) -> Integers:
    """Return the stored values of a single-frame monochrome image, shape (rows, columns).

    Never inverts MONOCHROME1, never applies slope, intercept or a look-up table. Raw words are
    taken as they are; anything compressed is decoded by pydicom and its plug-ins.

    Raises
    ------
    NotImage, MissingTag, UnsupportedPixels, NonLinearRescale, Truncated, DecodeError
    """
    check_pixels(file)
    if not file.transfer_syntax.is_encapsulated:
        return _raw_values(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = np.asarray(pixel_array(file.dataset, raw=True))
    except Exception as error:
        raise DecodeError(f"the pixel data cannot be decoded ({type(error).__name__})") from error
    shape = h.short_of(file, h.ROWS), h.short_of(file, h.COLUMNS)
    if values.shape != shape or values.dtype.kind not in "iu":
        raise DecodeError(f"decoding gave {values.dtype} of shape {values.shape}, not {shape}")
    return values


def _raw_values(file: Part10) -> Integers:
    """Return raw words as integers of the pixels' sign, without the bits above Bits Stored."""
    words = _source_words(file)
    stored, allocated = h.short_of(file, h.BITS_STORED), words.dtype.itemsize * 8
    signed = np.dtype(f"i{words.dtype.itemsize}")
    if h.short_of(file, h.PIXEL_REPRESENTATION):
        values = words.view(signed)
        if stored < allocated:
            values = (words << (allocated - stored)).view(signed) >> (allocated - stored)
    else:
        values = words if stored == allocated else words & ((1 << stored) - 1)
    return values.reshape(h.short_of(file, h.ROWS), h.short_of(file, h.COLUMNS))


def _source_words(file: Part10) -> Integers:
    """Return the words of uncompressed Pixel Data in the machine's byte order, flat, unsigned."""
    data, needed = file.view(PIXEL_DATA), raw_bytes(file)
    if len(data) < needed:
        raise Truncated(f"the pixel data has {len(data)} bytes; {needed} are needed")
    words: Integers = np.frombuffer(data, _word_type(file), needed // _word_type(file).itemsize)
    return words.astype(words.dtype.newbyteorder("="), copy=False)


def _word_type(file: Part10) -> np.dtype[np.unsignedinteger]:
    """Return the type of one word of uncompressed Pixel Data (PS3.5 8.1, A.2, A.3)."""
    size = h.short_of(file, h.BITS_ALLOCATED) // 8
    is_big = not file.is_little_endian and file.vr(PIXEL_DATA) == "OW"
    if size == 1 and is_big:
        raise UnsupportedPixels("8-bit pixels in big endian words are not supported yet")
    return np.dtype(f"{'>' if is_big else '<'}u{size}")


def check_pixels(file: Part10) -> None:
    """Raise the code that says why this data set has no pixels that can be protected, if so."""
    if PIXEL_DATA not in file:
        if any(tag in file for tag in _FLOAT_PIXELS):
            raise UnsupportedPixels("float pixel data; only integers can be protected exactly")
        raise NotImage("the object has no pixel data")
    check_format(file)


def check_format(file: Part10) -> None:
    """Raise the code that says why pixels as the header describes them are not supported, if so."""
    frames = h.text_of(file, h.FRAMES)
    if frames not in ("", "1"):
        raise UnsupportedPixels("multi-frame images are not supported yet")
    photometric = h.text_of(file, h.PHOTOMETRIC)
    if not photometric:
        raise MissingTag("(0028,0004) Photometric Interpretation is missing or empty")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnsupportedPixels("colour and palette images are not supported yet")
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


def rescale(file: Part10) -> tuple[float, float]:
    """Return slope and intercept; 1 and 0 where the instance has none."""
    values = []
    for tag, default in ((_SLOPE, 1.0), (_INTERCEPT, 0.0)):
        text = h.text_of(file, tag)
        try:
            values.append(float(text) if text else default)
        except ValueError as error:
            raise BadValue(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not a number") from error
    return values[0], values[1]


def padding(file: Part10) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that are Pixel Padding, or None."""
    first = _as_stored(file, _PADDING_VALUE)
    if first is None:
        return None
    last = _as_stored(file, _PADDING_LIMIT)
    last = first if last is None else last
    return min(first, last), max(first, last)


def encode(file: Part10, values: Integers) -> tuple[UID, bytes, bool]:
    """Return transfer syntax, Pixel Data value and whether it is encapsulated.

    The source's transfer syntax is kept where it is lossless and its encoder takes the image;
    otherwise the values become raw words of Explicit VR Little Endian. Bits above Bits Stored
    keep the source's content (old overlays) unless they were the sign.
    """
    syntax = file.transfer_syntax
    plugin = ENCODERS.get(syntax)
    if plugin == "":
        return syntax, _words(file, values), False
    if plugin is not None:
        # an encoder may refuse what others wrote: openjpeg's takes no side under 32 pixels
        with suppress(RuntimeError, ValueError):
            return syntax, _compress(file, syntax, plugin, values), True
    words = values.astype(values.dtype.newbyteorder("<"))
    return ExplicitVRLittleEndian, words.tobytes(), False


def _words(file: Part10, values: Integers) -> bytes:
    """Return the source's pixel bytes with the low Bits Stored of each changed word replaced."""
    old = _source_words(file)
    stored = h.short_of(file, h.BITS_STORED)
    new = values.reshape(-1).view(old.dtype)
    if stored < old.dtype.itemsize * 8:
        mask = old.dtype.type((1 << stored) - 1)
        before = _raw_values(file).reshape(-1).view(old.dtype)
        new = np.where(old == before, new, (old & ~mask) | (new & mask))
    words = new.astype(_word_type(file), copy=False)
    rest = file.view(PIXEL_DATA)[words.nbytes :]
    return words.tobytes() + rest if rest else words.tobytes()


def _compress(file: Part10, syntax: UID, plugin: str, values: Integers) -> bytes:
    """Return encapsulated lossless pixel data, made by pydicom on a data set of its own."""
    lean = Dataset()
    lean.file_meta = FileMetaDataset()
    lean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    lean.Rows, lean.Columns = values.shape
    lean.SamplesPerPixel = 1
    lean.PhotometricInterpretation = h.text_of(file, h.PHOTOMETRIC)
    lean.BitsAllocated = h.short_of(file, h.BITS_ALLOCATED)
    lean.BitsStored = h.short_of(file, h.BITS_STORED)
    lean.HighBit = lean.BitsStored - 1
    lean.PixelRepresentation = h.short_of(file, h.PIXEL_REPRESENTATION)
    lean.compress(syntax, values, encoding_plugin=plugin, generate_instance_uid=False)
    return bytes(lean.PixelData)


def raw_bytes(file: Part10) -> int:
    """Return how many bytes the pixels of one uncompressed monochrome frame take."""
    voxels = h.short_of(file, h.ROWS) * h.short_of(file, h.COLUMNS)
    return voxels * h.short_of(file, h.BITS_ALLOCATED) // 8


def _as_stored(file: Part10, tag: int) -> int | None:
    """Return a "US or SS" attribute in the sign of the pixels."""
    value = file.value(tag)
    if len(value) < 2:
        return None
    is_signed = bool(h.short_of(file, h.PIXEL_REPRESENTATION))
    order: Literal["little", "big"] = "little" if file.is_little_endian else "big"
    return int.from_bytes(value[:2], order, signed=is_signed)
