"""The way back inside the file: what `restore` needs, in Encrypted Attributes, for key holders.

Modified Attributes holds the source's values of what was changed, so that any program that knows
the standard gives them back, and a private block with all that `restore.restored` needs for the
source file itself.

References: PS3.3 C.12.1.1.4 (Encrypted Attributes), PS3.15 E.1 (de- and re-identification).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from math import prod
from struct import error as StructError
from struct import pack, unpack

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from salm_dicom.dicom import envelope
from salm_dicom.dicom import header as h
from salm_dicom.dicom.derive import ENCRYPTED
from salm_dicom.dicom.elements import Unusual, walk
from salm_dicom.dicom.items import Item, appended, items, items_of
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.restore import Kept, keep
from salm_dicom.dicom.samples import Shape
from salm_dicom.dicom.splice import EXPLICIT_LITTLE, Encoding
from salm_dicom.errors import MismatchError, ParseError
from salm_dicom.volume import Integers

_SYNTAX = 0x04000510
_CONTENT = 0x04000520
_MODIFIED = 0x04000550
# Text that a derivation changes, with its VR; and the character set it is in.
_TEXTS = {
    0x00080005: "CS", h.IMAGE_TYPE: "CS", 0x00080012: "DA", 0x00080013: "TM",
    h.SOP_INSTANCE_UID: "UI", 0x0008103E: "LO", 0x00082111: "ST", h.SERIES_UID: "UI",
    0x00200011: "IS",
}  # fmt: skip
# Our private block.
_CREATOR = 0x00990010
_OWNER = b"SALM_DICOM"
_SIZES = 0x00991001  # bytes of head, and of the Pixel Data header at its end
_SHA256 = 0x00991002
_FILE = 0x00991003  # head and tail, zlib
_SHAPE = 0x00991004
_WHERE = 0x00991005  # a bit for each stored value, zlib
_CHANGE = 0x00991006  # the changes that are not 0, zlib
# Anybody can write an envelope: the file in it may have so many bytes, and so many for each one.
_FREE = 16 << 20
_RATIO = 64


def encrypted_attributes(file: Part10, delta: Integers, certificates: Sequence[bytes]) -> bytes:
    """Return the Encrypted Attributes Sequence of the derived instance, encoded as `file` is.

    Items that the source has are kept before ours.

    Parameters
    ----------
    file
        The source instance.
    delta
        Stored units that are added to it, in the shape of its stored values.
    certificates
        Of the recipients, DER.
    """
    sealed = envelope.sealed(_content(file, delta), certificates)

    def item(code: Encoding) -> bytes:
        return code.item(
            (
                code.element(_SYNTAX, "UI", str(ExplicitVRLittleEndian)),
                code.element(_CONTENT, "OB", sealed),
            )
        )

    return appended(file, ENCRYPTED, item)


def recovered(protected: Part10, key: envelope.Key) -> Kept:
    """Return what restores the source of a protected instance, from its own envelope.

    Raises
    ------
    MismatchError
        It has none of ours, or none that this key opens.
    """
    try:
        found = items_of(protected, ENCRYPTED)
    except ParseError as error:
        raise MismatchError(f"its envelopes cannot be read: {error}") from error
    if not found:
        raise MismatchError("has no envelope; give the vault (--vault) of the run that made it")
    for item in reversed(found):
        try:
            return _kept(envelope.opened(item.value(_CONTENT), key), Shape.of(protected))
        except MismatchError as error:
            reason = error
    raise reason


def _content(file: Part10, delta: Integers) -> bytes:
    """Return the Encrypted Attributes Data Set."""
    code, kept = EXPLICIT_LITTLE, keep(file, delta)
    changed = delta != 0
    change = delta[changed].astype("<i4")
    if np.array_equal(change, change.astype("i1")):
        change = change.astype("i1")
    packed = {
        _FILE: kept.head + kept.tail,
        _WHERE: np.packbits(changed).tobytes(),
        _CHANGE: change.tobytes(),
    }
    texts = {tag: vr for tag, vr in _TEXTS.items() if tag in file}
    elements = {
        **{tag: code.element(tag, vr, file.value(tag)) for tag, vr in texts.items()},
        _CREATOR: code.element(_CREATOR, "LO", _OWNER),
        _SIZES: code.element(_SIZES, "UL", pack("<2L", len(kept.head), kept.pixel_header)),
        _SHA256: code.element(_SHA256, "LO", kept.sha256),
        _SHAPE: code.element(_SHAPE, "UL", pack(f"<{delta.ndim}L", *delta.shape)),
        **{tag: code.element(tag, "OB", zlib.compress(data)) for tag, data in packed.items()},
    }
    return code.element(_MODIFIED, "SQ", code.item(elements[tag] for tag in sorted(elements)))


def _kept(content: bytes, protected: Shape) -> Kept:
    """Return what was put into an envelope.

    Raises
    ------
    MismatchError
        The content is not ours.
    """
    try:
        spans = walk(content, 0, implicit=False, little=True)
        span = next(span for span in spans if span.tag == _MODIFIED)
        (item,) = items(content[span.value : span.value_stop], EXPLICIT_LITTLE)
        if item.value(_CREATOR).rstrip() != _OWNER:
            raise ValueError
        return _of_item(item, protected)
    except (Unusual, StopIteration, ParseError, ValueError, StructError, zlib.error) as error:
        raise MismatchError("an envelope does not hold what restores this instance") from error


def _of_item(item: Item, protected: Shape) -> Kept:
    head, pixel_header = unpack("<2L", item.value(_SIZES))
    file = _inflated(item.value(_FILE), _FREE + _RATIO * len(item.data))
    shape = unpack(f"<{len(item.value(_SHAPE)) // 4}L", item.value(_SHAPE))
    voxels = prod(shape)
    if voxels != prod(protected.pixels):
        raise ValueError
    bits = np.frombuffer(_inflated(item.value(_WHERE), voxels), np.uint8)
    where = np.unpackbits(bits, count=voxels).astype(bool)
    change = _inflated(item.value(_CHANGE), 4 * voxels)
    is_small = len(change) == int(np.count_nonzero(where))
    delta = np.zeros(voxels, dtype=np.int32)
    delta[where] = np.frombuffer(change, "i1" if is_small else "<i4")
    return Kept(
        head=file[:head],
        tail=file[head:],
        pixel_header=pixel_header,
        sha256=item.text(_SHA256),
        delta=delta.reshape(shape),
    )


def _inflated(data: bytes, most: int) -> bytes:
    inflate = zlib.decompressobj()
    found = inflate.decompress(data, most + 1)
    if not inflate.eof:
        raise ValueError
    return found
