"""One DICOM file in memory: its bytes, where each element lies, and pydicom's view on demand."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from struct import pack

import pydicom
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
)

from salm_dicom.dicom.deflate import inflated
from salm_dicom.dicom.elements import KNOWN_VRS, UNDEFINED, Span, Unusual, walk
from salm_dicom.dicom.layouts import Layouts
from salm_dicom.errors import (
    EmptyFile,
    InputError,
    MissingTag,
    NotDicom,
    ParseError,
    Truncated,
    Unreadable,
    UnsupportedTransferSyntax,
)

TRANSFER_SYNTAX = 0x00020010
_layouts = Layouts()  # of this process


@dataclass(frozen=True)
class Part10:
    """One DICOM file.

    Parameters
    ----------
    data
        As on disk, but inflated if it was deflated; of a header only, if `read_header` read it.
    spans
        Top-level elements in file order; together they cover the data set.
    meta
        Value of each file meta element.
    is_implicit_vr, is_little_endian
        How the data set really is encoded (the meta information can be wrong).
    deflated
        The file as on disk, if that is not `data`.
    """

    data: bytes
    spans: tuple[Span, ...]
    meta: dict[int, bytes]
    is_implicit_vr: bool
    is_little_endian: bool
    deflated: bytes = b""

    @cached_property
    def _by_tag(self) -> dict[int, Span]:
        return {span.tag: span for span in self.spans}

    @cached_property
    def dataset(self) -> FileDataset:
        """The same file as a pydicom data set, parsed when first asked for."""
        return _pydicom(self.data)

    @cached_property
    def transfer_syntax(self) -> UID:
        """Transfer Syntax UID of the file meta information."""
        return _uid(text(self.meta.get(TRANSFER_SYNTAX, b"")))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.deflated or self.data).hexdigest()

    def __contains__(self, tag: int) -> bool:
        return tag in self._by_tag

    def value(self, tag: int) -> bytes:
        """Return an element's value as encoded, without delimiter; empty when it is absent."""
        span = self._by_tag.get(tag)
        return b"" if span is None else self.data[span.value : span.value_stop]

    def view(self, tag: int) -> memoryview:
        """Return an element's value like `value`, without copying it."""
        span = self._by_tag.get(tag)
        return memoryview(self.data)[span.value : span.value_stop] if span else memoryview(b"")

    def vr(self, tag: int) -> str:
        """Return an element's VR; empty when it is absent or the VR implicit."""
        span = self._by_tag.get(tag)
        return "" if span is None else span.vr

    def element_bytes(self, but: Collection[int] = ()) -> dict[int, bytes]:
        """Return every top-level element's bytes, header included, by tag, but some."""
        return {s.tag: self.data[s.start : s.stop] for s in self.spans if s.tag not in but}


def text(value: bytes) -> str:
    """Return a text value without padding; bytes that are not ASCII stay one character each."""
    return value.decode("latin-1").strip(" \0")


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file, or say by code why not."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read ({type(error).__name__})") from error
    if not data:
        raise EmptyFile("the file has no bytes")
    return data


def read(path: Path) -> Part10:
    """Return a DICOM file in memory; see `parse`."""
    return parse(read_bytes(path))


def walked(data: bytes, before: int) -> Part10:
    """Return the file as the standard says it is, or raise `Unusual`; see `parse`."""
    spans, start = _meta_spans(data)
    meta = {span.tag: data[span.value : span.value_stop] for span in spans}
    syntax = _known_syntax(text(meta.get(TRANSFER_SYNTAX, b"")))
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    found = _layouts.walk(data, start, implicit=implicit, little=little, before=before)
    return Part10(data, tuple(found), meta, implicit, little)


def parse(data: bytes, *, before: int = UNDEFINED) -> Part10:
    """Return the file with its elements found; of a header, those below tag `before`.

    Raises
    ------
    NotDicom, ParseError, Truncated, MissingTag, UnsupportedTransferSyntax
    """
    if data[128:132] != b"DICM":
        raise NotDicom("no DICM prefix at byte 128: not a DICOM Part 10 file")
    plain = inflated(data)
    if plain is not data:
        file = parse(plain, before=before)
        meta = file.meta | {TRANSFER_SYNTAX: DeflatedExplicitVRLittleEndian.encode()}
        return replace(file, meta=meta, deflated=data)
    try:
        file = walked(data, before)
    except Unusual:
        return _by_pydicom(data)
    if not file.spans:
        raise Truncated("the file ends before the first element of the data set")
    return file


def _known_syntax(syntax: str) -> str:
    if not syntax:
        raise MissingTag("(0002,0010) Transfer Syntax UID is missing from the file meta group")
    if not _is_transfer_syntax(syntax):
        raise UnsupportedTransferSyntax("the Transfer Syntax UID is not one of the standard's")
    return syntax


_uid = lru_cache(maxsize=64)(UID)  # making one takes longer than most of what is asked of it


@lru_cache(maxsize=64)
def _is_transfer_syntax(syntax: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UID(syntax).is_transfer_syntax


def _meta_spans(data: bytes) -> tuple[list[Span], int]:
    """Return the file meta elements, always Explicit VR Little Endian, and where they end."""
    first = walk(data[:160], 132, implicit=False, little=True, before=0x00020001)
    if not first or first[0].tag != 0x00020000:
        raise Unusual
    length = int.from_bytes(data[first[0].value : first[0].value_stop], "little")
    end = first[0].stop + length
    if end > len(data):
        raise Unusual
    return walk(data[:end], 132, implicit=False, little=True), end


def _pydicom(data: bytes) -> FileDataset:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pydicom.dcmread(BytesIO(data))
    except InvalidDicomError as error:
        raise NotDicom("no DICM prefix at byte 128: not a DICOM Part 10 file") from error
    except EOFError as error:
        raise Truncated("the file ends inside the data set") from error
    except Exception as error:
        raise ParseError(f"the data set cannot be parsed ({type(error).__name__})") from error


def _by_pydicom(data: bytes) -> Part10:
    """Return the file as pydicom understands it: wrong VRs, odd nesting, missing group lengths."""
    dataset = _pydicom(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _as_parsed(data, dataset)
    except InputError:
        raise
    except Exception as error:
        raise ParseError(f"the data set cannot be parsed ({type(error).__name__})") from error


def _as_parsed(data: bytes, dataset: FileDataset) -> Part10:
    """Return the spans of a data set from the places where pydicom found its elements."""
    meta = {int(e.tag): str(e.value).encode("latin-1", "replace") for e in dataset.file_meta}
    _known_syntax(text(meta.get(TRANSFER_SYNTAX, b"")))
    implicit, little = (bool(flag) for flag in dataset.original_encoding)
    elements = [dataset.get_item(tag) for tag in dataset.keys()]  # noqa: SIM118
    places = sorted(((_value_start(e), e) for e in elements), key=itemgetter(0))
    if not places:
        raise Truncated("the file ends before the first element of the data set")
    _check_complete(data, *places[-1])
    starts = [_header_start(data, tell, int(e.tag), little) for tell, e in places]
    # pydicom reads an implicit data set that the meta information calls explicit, and keeps quiet
    implicit = implicit or data[starts[0] + 4 : starts[0] + 6] not in KNOWN_VRS
    stops = [*starts[1:], len(data)]
    spans = tuple(
        Span(
            int(e.tag),
            "" if implicit else text(data[start + 4 : start + 6]),
            start,
            tell,
            _value_stop(e, tell, stop),
            stop,
        )
        for (tell, e), start, stop in zip(places, starts, stops, strict=True)
    )
    return Part10(data, spans, meta, implicit, little)


def _check_complete(data: bytes, tell: int, last: RawDataElement | DataElement) -> None:
    """Raise `Truncated` when the last element promises more bytes than there are."""
    if not isinstance(last, RawDataElement):
        return
    length = len(last.value or b"") + 8 if last.length == UNDEFINED else last.length
    missing = tell + length - len(data)
    if missing > 0:
        raise Truncated(f"the file ends {missing} bytes before the end of {BaseTag(last.tag)}")


def _value_start(element: RawDataElement | DataElement) -> int:
    if isinstance(element, RawDataElement):
        return int(element.value_tell)
    return int(element.file_tell or 0)


def _value_stop(element: RawDataElement | DataElement, tell: int, stop: int) -> int:
    if isinstance(element, RawDataElement) and element.length != UNDEFINED:
        return tell + element.length
    is_undefined = isinstance(element, RawDataElement) or element.is_undefined_length
    return stop - 8 if is_undefined else stop


def _header_start(data: bytes, tell: int, tag: int, little: bool) -> int:
    """Return where the element's tag stands: 8 or 12 bytes before its value."""
    wanted = pack("<HH" if little else ">HH", tag >> 16, tag & 0xFFFF)
    for size in (8, 12):
        if data[tell - size : tell - size + 4] == wanted:
            return tell - size
    raise ParseError(f"element {BaseTag(tag)} is not where the parser found it")
