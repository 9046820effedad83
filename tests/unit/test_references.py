"""UIDs at every depth: replaced as pydicom would, back again byte for byte, and nothing else."""

from __future__ import annotations

import warnings
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from salm_dicom.dicom import references as references_module
from salm_dicom.dicom import rewriting as rewriting_module
from salm_dicom.dicom.elements import Unusual
from salm_dicom.dicom.part10 import Part10, parse, text
from salm_dicom.dicom.references import replaced, uids_of
from salm_dicom.dicom.splice import EXPLICIT_LITTLE, splice, value_after
from salm_dicom.errors import InputError, ParseError
from tests.unit.derivations import edited

SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
OLD = ["1.2.3", "1.2.840.99999.1", "2.25.7", "1.2.3.4.5.6.7.8.9"]
NEW = ["2.25.340282366920938463463374607431768211455", "1.9", "1.9.9.9", "2.25.1234567"]
FORTH = dict(zip(OLD, NEW, strict=True))
BACK = {new: old for old, new in FORTH.items()}
FILES = Path(pydicom.__file__).parent / "data" / "test_files"

UID = st.sampled_from([*OLD, "1.2.840.10008.1.1", "1.2.3.4", ""])
LEAVES = st.sampled_from(
    ["ReferencedSOPInstanceUID", "SeriesInstanceUID", "UID", "FailedSOPInstanceUIDList",
     "FrameOfReferenceUID", "StudyInstanceUID", "ReferencedSOPClassUID"]
)  # fmt: skip
NESTS = st.sampled_from(
    ["ReferencedSeriesSequence", "ReferencedSOPSequence", "ContentSequence", "private"]
)


@st.composite
def data_sets(draw: st.DrawFn, depth: int = 3) -> Dataset:
    """Return a data set with UIDs at several depths, lengths defined and undefined."""
    made = Dataset()
    made.is_undefined_length_sequence_item = draw(st.booleans())
    made.PatientComments = draw(st.sampled_from(["", "1.2.3", "1.2.3.4.5.6.7.8.9 "]))
    for keyword in draw(st.lists(LEAVES, max_size=3)):
        many = keyword == "FailedSOPInstanceUIDList"
        value = draw(st.lists(UID.filter(bool), min_size=2, max_size=4)) if many else draw(UID)
        setattr(made, keyword, value)
    for keyword in draw(st.lists(NESTS, max_size=2)) if depth else ():
        items = draw(st.lists(data_sets(depth - 1), max_size=3))
        if keyword == "private":
            made.private_block(0x0009, "SALM", create=True).add_new(0x10, "SQ", items)
            made[0x00091010].is_undefined_length = True  # implicit VR: all that says it is one
        else:
            setattr(made, keyword, Sequence(items))
            made[keyword].is_undefined_length = draw(st.booleans())
    return made


def file_of(dataset: Dataset, syntax: str) -> Part10:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    stream = BytesIO()
    dataset = deepcopy(dataset)
    dataset.file_meta = meta
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return parse(stream.getvalue())


def small() -> Dataset:
    made = Dataset()
    made.PatientID = "1"
    return made


def with_uids(file: Part10, new: dict[str, str], dropped: tuple[int, ...] = ()) -> Part10:
    """Return the file with UIDs replaced, and the source's file meta information."""
    changes = replaced(file, lambda uid: new.get(uid, uid), dropped=dropped)
    meta = {
        tag: ("UI", text(value)) for tag, value in file.meta.items() if tag in (0x20002, 0x20010)
    }
    return parse(splice(file, changes, meta))


def by_pydicom(dataset: Dataset, new: dict[str, str]) -> Dataset:
    """Replace the same UIDs the slow way, by keyword."""
    kept = ("FrameOfReferenceUID", "StudyInstanceUID", "ReferencedSOPClassUID")
    result = deepcopy(dataset)

    def replace(_: Dataset, element: pydicom.DataElement) -> None:
        if element.VR == "UI" and element.keyword not in kept and element.value:
            values = element.value if element.VM > 1 else [element.value]
            found = [new.get(str(value), str(value)) for value in values]
            element.value = found if len(found) > 1 else found[0]

    result.walk(replace)
    return result


def decoded(file: Part10) -> Dataset:
    return pydicom.dcmread(BytesIO(file.data))


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=150)
@given(dataset=data_sets())
@pytest.mark.filterwarnings("ignore")
def test_uids_are_replaced_as_pydicom_would_and_back_again_byte_for_byte(syntax, dataset):
    file = file_of(dataset, syntax)
    there = with_uids(file, FORTH)
    assert decoded(there) == by_pydicom(decoded(file), FORTH)
    back = with_uids(there, BACK)
    start = [one.spans[0].start for one in (file, back)]
    assert file.data[start[0] :] == back.data[start[1] :]


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=60)
@given(dataset=data_sets())
@pytest.mark.filterwarnings("ignore")
def test_elements_without_a_replaced_uid_keep_their_bytes(syntax, dataset):
    file = file_of(dataset, syntax)
    assert replaced(file, str) == {}
    changes = replaced(file, lambda uid: FORTH.get(uid, uid))
    held = {tag for tag, uid in uids_of(file) if uid in FORTH}
    assert changes.keys() == held
    for tag in changes:
        assert value_after(file, changes, tag) != file.value(tag)


def test_classes_studies_and_frames_of_reference_keep_their_uid_whatever_it_is():
    dataset = Dataset()
    for keyword in ("SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, OLD[0])
    dataset.SOPInstanceUID = OLD[0]
    changes = replaced(file_of(dataset, ExplicitVRLittleEndian), FORTH.__getitem__)
    assert list(changes) == [0x00080018]


@pytest.mark.parametrize("case", ["defined", "undefined", "big endian"])
def test_a_sequence_of_unknown_vr_is_implicit_little_endian_inside(case):
    """PS3.5 6.2.2; also in a big endian data set."""
    tag, inner, holder = 0x00081140, Dataset(), Dataset()
    inner.ReferencedSOPInstanceUID = OLD[0]
    holder.ReferencedImageSequence = [inner]
    value = file_of(holder, ImplicitVRLittleEndian).value(tag)
    syntax = ExplicitVRBigEndian if case == "big endian" else ExplicitVRLittleEndian
    file = edited(file_of(small(), syntax).data, {tag: ("UN", value)})
    if case == "undefined":
        span = next(s for s in file.spans if s.tag == tag)
        data = file.data[: span.value - 4] + b"\xff" * 4 + file.data[span.value : span.stop]
        file = parse(data + b"\xfe\xff\xdd\xe0\0\0\0\0" + file.data[span.stop :])
    there = with_uids(file, FORTH)
    assert there.vr(tag) == "UN"
    assert [uid for _, uid in uids_of(there)] == [NEW[0]]
    if case != "big endian":  # pydicom takes its items for big endian
        assert decoded(there)[tag].value[0].ReferencedSOPInstanceUID == NEW[0]
    assert [s.tag for s in there.spans] == [tag, 0x00100020]


def test_what_is_dropped_goes_at_every_depth_and_stale_group_lengths_with_it():
    code = EXPLICIT_LITTLE
    item = code.item(
        (
            code.element(0x00080000, "UL", b"\x14\0\0\0"),
            code.element(0x00081155, "UI", "1.2.840.1"),
            code.element(0x00880000, "UL", b"\x0c\0\0\0"),
            code.element(0x00880200, "SQ", code.item([])),
        )
    )
    plain = file_of(small(), ExplicitVRLittleEndian)
    there = with_uids(edited(plain.data, {0x00081199: ("SQ", item)}), {}, (0x00880200,))
    (left,) = decoded(there).ReferencedSOPSequence
    assert [int(tag) for tag in left.keys()] == [0x00080000, 0x00081155]  # noqa: SIM118


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=40)
@given(dataset=data_sets())
@pytest.mark.filterwarnings("ignore")
def test_where_the_walk_gives_up_pydicom_replaces_the_same(syntax, dataset):
    file = file_of(dataset, syntax)
    wanted = decoded(with_uids(file, FORTH))
    with pytest.MonkeyPatch.context() as patch:

        def give_up(*_args: object, **_settings: object) -> None:
            raise Unusual

        patch.setattr(rewriting_module, "items", give_up)
        references_module._uids_of_element.cache_clear()
        try:
            found = with_uids(file, FORTH)
        except ParseError:  # a UID that must be kept has the value of one that must not
            return
        finally:
            references_module._uids_of_element.cache_clear()
        assert decoded(found) == wanted


def test_an_element_that_nobody_understands_keeps_its_bytes():
    file = file_of(small(), ExplicitVRLittleEndian)
    broken = edited(file.data, {0x00081140: ("SQ", b"no items in here")})
    assert replaced(broken, lambda _: "1.9") == {}


def test_a_list_of_uids_that_outgrows_its_element_is_a_parse_error():
    dataset = Dataset()
    dataset.FailedSOPInstanceUIDList = [OLD[0]] * 10_000
    with pytest.raises(ParseError, match="too long"):
        replaced(file_of(dataset, ExplicitVRLittleEndian), lambda uid: FORTH.get(uid, uid))


@pytest.mark.filterwarnings("ignore")
def test_real_files_are_what_pydicom_makes_of_them():
    """Every second UID of every real file there is, against pydicom."""
    seen, refused = 0, []
    for path in sorted(p for p in FILES.rglob("*") if p.is_file() and p.stat().st_size < 300_000):
        try:
            file = parse(path.read_bytes())
            before = decoded(file)
            list(before.iterall())
        except (InputError, Exception):
            continue
        uids = sorted({uid for _, uid in uids_of(file) if uid})
        new = {uid: f"1.9.{n}" for n, uid in enumerate(uids[::2])}
        try:
            after = decoded(with_uids(file, new))
        except ParseError:
            refused.append(path.name)
            continue
        kept = rewriting_module.KEPT
        old_uids = [e for e in before.iterall() if e.VR == "UI" and e.tag not in kept and e.value]
        new_uids = [e for e in after.iterall() if e.VR == "UI" and e.tag not in kept and e.value]
        for one, other in zip(old_uids, new_uids, strict=True):
            a, b = ([e.value] if e.VM == 1 else list(e.value) for e in (one, other))
            assert [new.get(str(uid), str(uid)) for uid in a] == [str(uid) for uid in b], path.name
        old, rest = list(before.iterall()), list(after.iterall())
        assert [e.tag for e in old if e.tag.element] == [e.tag for e in rest if e.tag.element]
        seen += 1
    assert seen > 100
    assert refused == []
