"""The way back: a source instance from its protected one and what the vault kept of it.

The vault, or an envelope in the file (`recovery`), keeps the change of each voxel and every byte
of the source but its pixel data. Where the source was uncompressed the result is the source file,
byte for byte. Where it was compressed or deflated its stored values and attributes come back
exactly, packed anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from salm_dicom import __version__
from salm_dicom.dicom import pixels
from salm_dicom.dicom.encode import encode, is_exactly
from salm_dicom.dicom.header import PHOTOMETRIC, PLANAR, identity_of
from salm_dicom.dicom.part10 import Part10, parse
from salm_dicom.dicom.references import vr_of
from salm_dicom.dicom.splice import Encoding, file_meta, splice
from salm_dicom.errors import MismatchError
from salm_dicom.volume import Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of a source instance.

    Parameters
    ----------
    head, tail
        Bytes of the file up to the value of Pixel Data, and after it.
    pixel_header
        Bytes of the Pixel Data element before its value; the end of `head`.
    sha256
        Of the whole file.
    delta
        Stored units that were added, shape of the stored values.
    """

    head: bytes
    tail: bytes
    pixel_header: int
    sha256: str
    delta: Integers


def keep(source: Part10, delta: Integers) -> Kept:
    """Return what is needed to restore a source instance."""
    span = next(span for span in source.spans if span.tag == pixels.PIXEL_DATA)
    return Kept(
        head=source.data[: span.value],
        tail=source.data[span.value_stop :],
        pixel_header=span.value - span.start,
        sha256=source.sha256,
        delta=delta,
    )


def restored(protected: Part10, kept: Kept) -> tuple[bytes, bool]:
    """Return the source instance, and whether it is the source file byte for byte.

    Raises
    ------
    MismatchError
        Protected file and vault do not belong together, or the file was changed since.
    """
    after = pixels.stored_values(protected)
    if after.shape != kept.delta.shape:
        raise MismatchError("the protected pixels and the changes that were kept differ in size")
    values = (after.astype(np.int64) - kept.delta).astype(after.dtype)
    header = _without_pixels(kept)
    if header.transfer_syntax != protected.transfer_syntax:
        data = _uncompressed(header, protected, values)
    else:
        _, pixel_bytes, _ = encode(protected, values)
        data = kept.head + pixel_bytes + kept.tail
    found = parse(data)
    if not is_exactly(found, protected, -kept.delta):
        raise MismatchError("decoding the restored pixel data does not give what was meant")
    is_source = hashlib.sha256(data).hexdigest() == kept.sha256
    # a codec or zlib may pack the same pixels in other bytes
    is_packed = header.transfer_syntax.is_encapsulated or bool(protected.deflated)
    if not is_source and not is_packed:
        raise MismatchError(
            "the restored file is not the source: the protected file was changed, or what was kept "
            "is another run's"
        )
    return data, is_source


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptObject:
    """What the vault keeps of an object that was copied: all but its largest unchanged value.

    Parameters
    ----------
    head, tail
        Bytes of the source file before and after the value that is not kept.
    tag
        Of the element whose value is taken from the copy; 0 where all is in `head`.
    sha256
        Of the whole file.
    """

    head: bytes
    tail: bytes
    tag: int
    sha256: str


def keep_object(source: Part10, copy: Part10) -> KeptObject:
    """Return what is needed to restore an object from its copy."""
    # what holds UIDs can be written anew later (`batch.settle`)
    same = [
        span
        for span in source.spans
        if vr_of(source, span) not in ("UI", "SQ")
        and source.value(span.tag) == copy.value(span.tag)
    ]
    largest = max(same, key=lambda span: span.value_stop - span.value, default=None)
    stop, start, tag = len(source.data), len(source.data), 0
    if largest is not None:
        start, stop, tag = largest.value, largest.value_stop, largest.tag
    return KeptObject(
        head=source.data[:start], tail=source.data[stop:], tag=tag, sha256=source.sha256
    )


def restored_object(copy: Part10, kept: KeptObject) -> bytes:
    """Return the source of a copied object, byte for byte.

    Raises
    ------
    MismatchError
        Copy and vault do not belong together, or the copy was changed since.
    """
    data = kept.head + (copy.value(kept.tag) if kept.tag else b"") + kept.tail
    if hashlib.sha256(data).hexdigest() != kept.sha256:
        raise MismatchError(
            "the restored object is not the source: the copy was changed, or the vault is another "
            "run's"
        )
    return data


def _without_pixels(kept: Kept) -> Part10:
    """Return the source without its Pixel Data element."""
    before = kept.head[: len(kept.head) - kept.pixel_header]
    # encapsulated pixel data ends with a sequence delimiter of 8 bytes
    is_undefined = kept.head.endswith(b"\xff\xff\xff\xff")
    return parse(before + kept.tail[8 if is_undefined else 0 :])


def _uncompressed(header: Part10, protected: Part10, values: Integers) -> bytes:
    """Return the source with raw pixel words, where its own syntax cannot be written."""
    syntax, pixel_bytes, encapsulated = encode(protected, values)
    element = Encoding.of(header).element(
        pixels.PIXEL_DATA, protected.vr(pixels.PIXEL_DATA), pixel_bytes, undefined=encapsulated
    )
    identity = identity_of(header)
    meta = file_meta(identity.sop_class, identity.sop_uid, syntax, __version__)
    # colour stays as the protected file, which is no more compressed, describes it
    whole = protected.element_bytes()
    colour = {tag: whole[tag] for tag in (PHOTOMETRIC, PLANAR) if tag in whole}
    return splice(header, {**colour, pixels.PIXEL_DATA: element}, meta)
