"""Layouts: what is known from files before gives what a walk over each file gives, or nothing."""

from __future__ import annotations

from itertools import pairwise

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from salm_dicom.dicom import layouts
from salm_dicom.dicom.elements import FIRST_PIXEL_TAG, UNDEFINED, Span, Unusual, walk
from salm_dicom.dicom.layouts import Layouts
from salm_dicom.dicom.part10 import parse
from tests.synthetic import write_ct_series

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.fixture(scope="module", params=SYNTAXES, ids=lambda s: s.name)
def files(request, tmp_path_factory) -> list[bytes]:
    """Slices of which some have the same elements, with sequences of undefined length."""
    folder = tmp_path_factory.mktemp("slices")
    found = []
    for number, path in enumerate(
        write_ct_series(folder, slices=6, rows=8, columns=8, transfer_syntax=request.param)
    ):
        dataset = pydicom.dcmread(path)
        item = Dataset()
        item.ReferencedSOPInstanceUID = f"1.2.{number // 2}"
        item.is_undefined_length_sequence_item = True
        dataset.ReferencedImageSequence = Sequence([item])
        dataset["ReferencedImageSequence"].is_undefined_length = True
        dataset.PatientComments = "x" * (2 * (number % 3))
        dataset.save_as(path)
        found.append(path.read_bytes())
    return found


def coding(data: bytes) -> tuple[int, bool, bool]:
    file = parse(data)
    return file.spans[0].start, file.is_implicit_vr, file.is_little_endian


def found(how, data: bytes, start: int, implicit: bool, little: bool, before: int):
    """Return the elements, or None where they are unusual."""
    try:
        return how(data, start, implicit=implicit, little=little, before=before)
    except Unusual:
        return None


def agrees(known: Layouts, data: bytes, where: tuple[int, bool, bool], before: int) -> list[Span]:
    """Check that a header is what a walk says."""
    spans = found(known.walk, data, *where, before)
    assert spans == found(walk, data, *where, before)
    return spans


@pytest.mark.parametrize("before", [FIRST_PIXEL_TAG, UNDEFINED])
def test_known_layouts_give_what_a_walk_gives(files, before):
    known = Layouts()
    for data in files * 4:
        assert agrees(known, data, coding(data), before)


def test_a_layout_is_known_from_the_third_file_on_and_skips_the_walk(files, monkeypatch):
    where, known = coding(files[0]), Layouts()
    walks = []

    def counted(data, start, **how):
        spans = walk(data, start, **how)
        walks.append(len(spans))
        return spans

    monkeypatch.setattr(layouts, "walk", counted)
    for _ in range(4):
        known.walk(files[0], where[0], implicit=where[1], little=where[2], before=UNDEFINED)
    assert walks[0] == walks[1] > 16
    assert walks[2:] == [1, 1]  # the pixel data


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damage_is_met_as_a_walk_meets_it(files, data):
    """A file of which some bytes were changed, or the end cut off, after its like was learned."""
    good = data.draw(st.sampled_from(files))
    where, known = coding(good), Layouts()
    for _ in range(3):
        agrees(known, good, where, UNDEFINED)
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(where[0], len(good) - 1))
        broken[place] = data.draw(st.integers(0, 255))
    cut = bytes(broken[: data.draw(st.one_of(st.none(), st.integers(where[0], len(good))))])
    for before in (UNDEFINED, FIRST_PIXEL_TAG):
        agrees(known, cut, where, before)
    agrees(known, good, where, UNDEFINED)


def test_an_element_after_the_header_that_belongs_before_is_unusual(files):
    good = files[0]
    where, known = coding(good), Layouts()
    for _ in range(3):
        spans = agrees(known, good, where, UNDEFINED)
    first, pixels = spans[0], next(s for s in spans if s.tag >= FIRST_PIXEL_TAG)
    twisted = good[: pixels.start] + good[first.start : first.stop] + good[pixels.start :]
    assert agrees(known, twisted, where, UNDEFINED) is None


def test_what_is_remembered_has_an_end(files):
    known = Layouts()
    for data in files * 3:
        start, implicit, little = coding(data)
        for more in range(40):
            moved = bytes(more) + data
            known.walk(
                moved, start + more, implicit=implicit, little=little, before=FIRST_PIXEL_TAG
            )
    assert len(known._seen) <= layouts._CODINGS + 1
    assert len(known._known) <= len(known._seen)
    assert all(len(one) <= layouts._MOST for one in (known._known | known._seen).values())


def test_layouts_differ_where_lengths_do(files):
    lengths = [[s.stop - s.start for s in parse(data).spans] for data in files]
    assert any(one != other for one, other in pairwise(lengths))
