"""The quick walk over elements: what pydicom finds, at every depth; a code for anything broken."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from struct import pack

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from salm_dicom.dicom import part10
from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.errors import InputError, ParseError
from tests.synthetic import write_ct_series
from tests.unit.derivations import edited

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
SEQUENCE = 0x00081140


def agrees_with_pydicom(file: Part10, path: Path) -> None:
    """Check tags, values and that the spans cover the data set without a gap."""
    dataset = pydicom.dcmread(path)
    assert {span.tag for span in file.spans} == {int(tag) for tag in dataset.keys()}  # noqa: SIM118
    for span in file.spans:
        element = dataset.get_item(span.tag)
        if isinstance(element, RawDataElement):
            assert file.value(span.tag) == (element.value or b"")
    for span, after in zip(file.spans, [*file.spans[1:], None], strict=True):
        assert span.stop == (after.start if after else len(file.data))


def nested(depth: int, undefined: bool) -> Sequence:
    """Return a sequence with two items, the second `depth` levels deep."""
    leaf, item = Dataset(), Dataset()
    leaf.ReferencedSOPClassUID = "1.2.3"
    leaf.add_new(0x00091010, "UN", b"\xfe\xff\x0d\xe0\0\0\0\0")
    item.PurposeOfReferenceCodeSequence = nested(depth - 1, undefined) if depth else Sequence()
    item["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
    for one in (leaf, item):
        one.is_undefined_length_sequence_item = undefined
    return Sequence([leaf, item])


@pytest.fixture(scope="module", params=SYNTAXES, ids=lambda s: s.name)
def image(request, tmp_path_factory) -> Path:
    """An image of each uncompressed syntax with nested sequences of undefined length."""
    folder = tmp_path_factory.mktemp("image")
    recipe = {"slices": 1, "rows": 32, "columns": 32, "icon": True}
    (path,) = write_ct_series(folder, transfer_syntax=request.param, **recipe)
    dataset = pydicom.dcmread(path)
    for keyword, undefined in (
        ("ReferencedImageSequence", True),
        ("ConceptNameCodeSequence", False),
    ):
        setattr(dataset, keyword, nested(6, undefined))
        dataset[keyword].is_undefined_length = undefined
    dataset.private_block(0x0021, "NESTED", create=True).add_new(1, "SQ", nested(2, True))
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("before", [None, 0x7FE00008])
def test_nested_sequences_of_any_length_are_skipped_without_pydicom(image, monkeypatch, before):
    monkeypatch.setattr(part10, "_by_pydicom", lambda data: pytest.fail("the walk gave up"))
    data = image.read_bytes()
    file = parse(data) if before is None else parse(data, before=before)
    if before is None:
        agrees_with_pydicom(file, image)
    assert (0x7FE00010 in file) == (before is None)


def test_every_shared_file_is_read_as_pydicom_reads_it_or_has_a_code(shared):
    files = [path for path in sorted((shared / "data").rglob("*")) if path.is_file()]
    read_well = 0
    for path in files:
        try:
            file = read(path)
        except InputError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            agrees_with_pydicom(file, path)
        read_well += 1
    assert read_well > 100


def test_a_file_cut_anywhere_is_no_image_and_never_gains_an_element(image, tmp_path):
    data = image.read_bytes()
    whole = {span.tag for span in parse(data).spans}
    cut = tmp_path / "cut.dcm"
    for size in range(0, len(data), 97):
        cut.write_bytes(data[:size])
        with pytest.raises(InputError):
            image_header(cut)
        with suppress(InputError):
            assert {span.tag for span in parse(data[:size]).spans} <= whole


@settings(max_examples=150)
@given(data=st.data())
def test_a_header_with_changed_bytes_is_read_or_has_a_code(image, tmp_path_factory, data):
    content = bytearray(image.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 6000) - 1))
        content[place] = data.draw(
            st.sampled_from([0, 1, 0x5C, 0x7F, 0xFE, 0xFF]) | st.integers(0, 255)
        )
    path = tmp_path_factory.getbasetemp() / "mutated.dcm"
    path.write_bytes(content)
    for attempt in (lambda: parse(bytes(content)), lambda: image_header(path)):
        with suppress(InputError):
            attempt()


@pytest.mark.parametrize("depth", [49, 500, 100_000])
@pytest.mark.parametrize("undefined", [True, False])
def test_deep_nesting_is_read_or_has_a_code(tmp_path, depth, undefined):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    if undefined:
        start = pack("<HH2sHLHHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
        end = pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        value = start * depth + end * depth
        value = value[12:-8]
    else:
        value = b""
        for _ in range(min(depth, 3000)):
            item = pack("<HHL", 0xFFFE, 0xE000, len(value)) + value
            value = pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, len(item)) + item
        value = value[12:]
    with suppress(ParseError):
        assert SEQUENCE in edited(path.read_bytes(), {SEQUENCE: ("SQ", value)})


@pytest.mark.parametrize("length", [0xFFFFFFFE, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("tag", [0x00081140, 0x7FE00010])
def test_a_false_length_has_a_code(tmp_path, tag, length):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    file = parse(path.read_bytes())
    if tag not in file:
        file = edited(file.data, {tag: ("SQ", b"")})
    span = next(span for span in file.spans if span.tag == tag)
    broken = bytearray(file.data)
    broken[span.value - 4 : span.value] = pack("<L", length)
    with pytest.raises(InputError):
        parse(bytes(broken))
