"""Stored values back to Pixel Data: the source's bytes or codec where that is lossless."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from salm_dicom.dicom import header as h
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.pixels import (
    PIXEL_DATA,
    is_swapped,
    raw_values,
    source_words,
    stored_values,
    swapped,
    word_type,
    words_of,
)
from salm_dicom.dicom.samples import Shape, added, luminance
from salm_dicom.dicom.writers import ENCODERS
from salm_dicom.volume import Integers


def encode(file: Part10, values: Integers) -> tuple[UID, bytes, bool]:
    """Return transfer syntax, Pixel Data value and whether it is encapsulated.

    The source's transfer syntax is kept where it is lossless and its encoder takes the image;
    otherwise the values become raw little endian words, and colour has the Photometric
    Interpretation that `Shape.decoded` says. YBR_FULL that was decoded becomes RLE Lossless, for
    ultrasound may hold it in no other way (PS3.3 C.8.5.6.1.2). Bits above Bits Stored keep the
    source's content (old overlays) unless they were the sign.

    Parameters
    ----------
    file
        The source.
    values
        What `stored_values` of the result shall be, in the same shape.
    """
    syntax, shape = file.transfer_syntax, Shape.of(file)
    plugin = ENCODERS.get(syntax)
    if syntax.is_encapsulated and file.is_implicit_vr:
        plugin = None  # only an explicit data set may hold encapsulated pixels
    if shape.samples > 1:
        words, shape = words_of(file)
        change = values.reshape(shape.pixels).astype(np.int32) - luminance(words, shape)
        words = added(words, shape, change)
        if plugin == "":
            return syntax, _in_place(file, words), False
        values = words.reshape(*shape.pixels, shape.samples)
        values = values if shape.frames > 1 else values[0]
        if syntax == JPEG2000Lossless:
            plugin = None  # its encoder would ask for another Photometric Interpretation
        if plugin is None and shape.photometric == "YBR_FULL" and not file.is_implicit_vr:
            syntax, plugin = RLELossless, ENCODERS[RLELossless]
    elif plugin == "":
        return syntax, _in_place(file, _with_unused_bits(file, values)), False
    if plugin:
        # an encoder may refuse what others wrote: openjpeg's takes no side under 32 pixels
        with suppress(RuntimeError, ValueError):
            return syntax, _compress(file, syntax, plugin, values), True
    words = values.astype(values.dtype.newbyteorder("<"))
    raw = ImplicitVRLittleEndian if file.is_implicit_vr else ExplicitVRLittleEndian
    return raw, words.tobytes(), False


def is_exactly(
    protected: Part10, source: Part10, change: Integers, after: Integers | None = None
) -> bool:
    """Return whether decoding `protected` gives every sample of `source` plus `change`.

    Parameters
    ----------
    after
        Stored values of `source` plus `change`, if they are known: grey is then not decoded again.
    """
    if Shape.of(source).samples == 1:
        found = stored_values(protected)
        if after is None:
            after = stored_values(source).astype(np.int32) + change.reshape(found.shape)
        return bool(np.array_equal(found, after.reshape(found.shape)))
    words, shape = words_of(source)
    found, _ = words_of(protected)
    return bool(np.array_equal(found, added(words, shape, change.reshape(shape.pixels))))


def _with_unused_bits(file: Part10, values: Integers) -> Integers:
    """Return the source's words with the low Bits Stored of each changed one replaced."""
    old = source_words(file)
    stored = h.short_of(file, h.BITS_STORED)
    new = values.reshape(-1).view(old.dtype)
    if stored < old.dtype.itemsize * 8:
        mask = old.dtype.type((1 << stored) - 1)
        before = raw_values(file).view(old.dtype)
        new = np.where(old == before, new, (old & ~mask) | (new & mask))
    return new


def _in_place(file: Part10, words: Integers) -> bytes:
    """Return the source's pixel bytes with these words at their beginning, in its byte order."""
    old = file.value(PIXEL_DATA)
    kind = word_type(file)
    if kind.itemsize == 1 and is_swapped(file):
        data = words.tobytes() + swapped(old)[words.nbytes :]
        return swapped(data) + old[len(data) :]
    new = words.astype(kind, copy=False)
    return new.tobytes() + old[new.nbytes :]


def _compress(file: Part10, syntax: UID, plugin: str, values: Integers) -> bytes:
    """Return encapsulated lossless pixel data, made by pydicom on a data set of its own.

    With a Basic Offset Table when there are several frames.
    """
    shape = Shape.of(file)
    lean = Dataset()
    lean.file_meta = FileMetaDataset()
    lean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    lean.Rows, lean.Columns = shape.rows, shape.columns
    lean.SamplesPerPixel = shape.samples
    lean.PhotometricInterpretation = shape.decoded().photometric
    if shape.frames > 1:
        lean.NumberOfFrames = shape.frames
    if shape.samples > 1:
        lean.PlanarConfiguration = 0
    lean.BitsAllocated = h.short_of(file, h.BITS_ALLOCATED)
    lean.BitsStored = h.short_of(file, h.BITS_STORED)
    lean.HighBit = lean.BitsStored - 1
    lean.PixelRepresentation = h.short_of(file, h.PIXEL_REPRESENTATION)
    lean.compress(syntax, values, encoding_plugin=plugin, generate_instance_uid=False)
    return bytes(lean.PixelData)
