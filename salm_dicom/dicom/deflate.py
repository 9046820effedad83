"""Deflated Explicit VR Little Endian: inflate a data set within a bound, and deflate one again.

References: PS3.5 A.5, RFC 1951.
"""

from __future__ import annotations

import zlib

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from salm_dicom.errors import Bomb, ParseError, Truncated

_SYNTAX = DeflatedExplicitVRLittleEndian.encode()
# The same length, so that the file meta information keeps its own.
_PLAIN = ExplicitVRLittleEndian.encode().ljust(len(_SYNTAX), b"\0")
# An inflated data set may have this many bytes, and this many for each deflated one: pictures of
# patients take a tenth to half of their size, a bomb a thousandth.
_FREE = 16 << 20
_RATIO = 64
# The group length element ends here (PS3.10 7.1): prefix, preamble, tag, VR, length, value.
_META = 144


def inflated(data: bytes) -> bytes:
    """Return a deflated file as Explicit VR Little Endian; any other as it is.

    Raises
    ------
    Bomb
        The data set grows beyond the bound; it was not inflated further.
    Truncated, ParseError
        The deflated data end too early, or are none.
    """
    if data[132:140] != b"\2\0\0\0UL\4\0":
        return data
    end = _META + int.from_bytes(data[140:_META], "little")
    meta = data[:end]
    if end > len(data) or _SYNTAX not in meta:
        return data
    most = _FREE + _RATIO * len(data)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflate.decompress(memoryview(data)[end:], most)
    except zlib.error as error:
        raise ParseError("the deflated data set cannot be inflated") from error
    if inflate.unconsumed_tail:
        raise Bomb(f"{len(data)} deflated bytes become more than {most}; no image does that")
    if not inflate.eof:
        raise Truncated("the deflated data set ends too early")
    return meta.replace(_SYNTAX, _PLAIN) + body


def deflated(body: bytes) -> bytes:
    """Return a data set deflated, of even length."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflate.compress(body) + deflate.flush()
    return data + b"\0" * (len(data) % 2)
