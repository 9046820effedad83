"""Copies of objects: what changes in them, what goes, what is refused; planted faults are found."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from salm_dicom.dicom import objects as objects_module
from salm_dicom.dicom.objects import COPIED, compare_objects, copied, object_header
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.dicom.restore import keep_object, restored_object
from salm_dicom.errors import (
    AlreadyProtected,
    BadUid,
    MismatchError,
    ParseError,
    UnsupportedPixels,
)
from tests.objects import references, write_report, write_segmentation
from tests.synthetic import uid, write_ct_series
from tests.unit.derivations import edited

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def new(old: str) -> str:
    """Return another UID, longer for some and shorter for others; classes stay."""
    if old.startswith("1.2.840.10008"):
        return old
    made = uid("new", old)
    return made if int(made[-1]) % 2 else f"2.25.{made[-9:].lstrip('0')}"


def copy(source: Part10) -> Part10:
    return parse(copied(source, new, CREATED, "d" * 64))


@pytest.fixture
def images(tmp_path) -> list[Path]:
    return write_ct_series(tmp_path / "ct", slices=3)


@pytest.fixture(params=SYNTAXES)
def report(request, tmp_path, images) -> Part10:
    write_report(tmp_path / "report.dcm", images, syntax=request.param)
    return read(tmp_path / "report.dcm")


def test_a_copy_is_its_source_but_for_uids_dates_and_equipment(report):
    there = copy(report)
    own = {"SOPInstanceUID", "SeriesInstanceUID", "ContributingEquipmentSequence"}
    own |= {"InstanceCreationDate", "InstanceCreationTime"}
    mapped = {"CurrentRequestedProcedureEvidenceSequence", "ContentSequence"}
    changed = {pydicom.datadict.tag_for_keyword(name) for name in own | mapped}
    assert report.element_bytes(changed) == there.element_bytes(changed)
    assert references(there.dataset) == {new(one) for one in references(report.dataset)}
    for name in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert there.dataset[name].value == new(report.dataset[name].value)
    assert there.dataset.InstanceCreationDate == "20260102"
    (item,) = there.dataset.ContributingEquipmentSequence
    assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert "d" * 32 in item.ContributionDescription
    assert there.dataset.file_meta.MediaStorageSOPInstanceUID == there.dataset.SOPInstanceUID
    assert there.transfer_syntax == report.transfer_syntax


def test_a_segmentation_keeps_its_pixels(tmp_path, images):
    write_segmentation(tmp_path / "seg.dcm", images)
    source = read(tmp_path / "seg.dcm")
    there = copy(source)
    assert there.value(0x7FE00010) == source.value(0x7FE00010)
    wanted = {new(pydicom.dcmread(path).SOPInstanceUID) for path in images}
    assert references(there.dataset) == wanted


@pytest.mark.parametrize("index", [True, False])
def test_a_copy_and_what_is_kept_give_the_source_back_byte_for_byte(report, index):
    if index:
        value = b"text" * 500
        report = edited(report.data, {0x00104000: ("LT", value)})
    there = copy(report)
    kept = keep_object(report, there)
    assert restored_object(there, kept) == report.data
    assert len(kept.head) + len(kept.tail) < len(report.data)
    changed = edited(there.data, {kept.tag: ("LT", b"another!")})
    with pytest.raises(MismatchError, match="not the source"):
        restored_object(changed, kept)


def test_thumbnails_signatures_and_statuses_do_not_go_along(report):
    dataset = report.dataset
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    dataset.ContentSequence[0].ReferencedSOPSequence[0].IconImageSequence = [icon]
    dataset.IconImageSequence = [icon]
    dataset.DigitalSignaturesSequence = [Dataset()]
    dataset.SOPInstanceStatus = "AO"
    stream = BytesIO()
    dataset.save_as(stream)
    there = copy(parse(stream.getvalue())).dataset
    left = {element.keyword for element in there.iterall()}
    assert not left & {"IconImageSequence", "DigitalSignaturesSequence", "SOPInstanceStatus"}
    assert references(there) == {new(one) for one in references(dataset)}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({0x0020000E: ("UI", b"")}, BadUid),
        ({0x0020000D: None}, BadUid),
        ({0x00080018: ("UI", b"../../etc")}, BadUid),
        ({0x00280010: ("US", b"\1\0")}, UnsupportedPixels),
    ],
)
def test_an_object_that_is_not_what_it_says_is_not_copied(tmp_path, images, changes, error):
    write_report(tmp_path / "report.dcm", images)
    spoiled = edited((tmp_path / "report.dcm").read_bytes(), changes)
    with pytest.raises(error):
        object_header(spoiled, tmp_path)


def test_pixels_that_come_to_light_only_on_copying_are_not_copied(tmp_path, images):
    write_report(tmp_path / "report.dcm", images)
    report = (tmp_path / "report.dcm").read_bytes()
    with pytest.raises(UnsupportedPixels):
        copied(edited(report, {0x7FE00010: ("OW", b"\1\0")}), new, CREATED, "d")


def test_a_copy_is_not_copied_again(report, tmp_path):
    with pytest.raises(AlreadyProtected):
        object_header(copy(report), tmp_path)


def test_an_object_with_references_that_cannot_be_parsed_is_not_copied(tmp_path, images):
    report = write_report(tmp_path / "report.dcm", images)
    value = b"no items, but " + report.SOPInstanceUID.encode()
    value += b" " * (len(value) % 2)
    broken = edited((tmp_path / "report.dcm").read_bytes(), {0x00081199: ("SQ", value)})
    with pytest.raises(ParseError, match="cannot be parsed, and holds references"):
        copied(broken, new, CREATED, "d")


def test_a_reference_that_was_forgotten_is_found_before_the_copy_is_kept(report, monkeypatch):
    monkeypatch.setattr(objects_module, "replaced", lambda *_, **__: {})
    with pytest.raises(MismatchError, match="REFERENCE"):
        copied(report, new, CREATED, "d")


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (lambda d: setattr(d, "PatientSex", "F"), "ATTRIBUTE_CHANGED"),
        (lambda d: delattr(d, "StudyID"), "ATTRIBUTE_REMOVED"),
        (lambda d: setattr(d, "PatientComments", "new"), "ATTRIBUTE_ADDED"),
        (lambda d: d.ContentSequence.pop(), "ATTRIBUTE_CHANGED"),
        (lambda d: setattr(d.ContentSequence[-1], "TextValue", "new"), "ATTRIBUTE_CHANGED"),
        (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "ATTRIBUTE_ADDED"),
        (lambda d: setattr(d, "IconImageSequence", [Dataset()]), "STALE_ATTRIBUTE"),
        (lambda d: setattr(d, "StudyInstanceUID", "1.2.3"), "ATTRIBUTE_CHANGED"),
        (lambda d: delattr(d, "ContributingEquipmentSequence"), "NO_PROVENANCE"),
        (lambda d: setattr(d.file_meta, "MediaStorageSOPInstanceUID", "1.2.3"), "META_UID"),
    ],
)
def test_a_planted_fault_is_found(report, plant, code):
    dataset = copy(report).dataset
    plant(dataset)
    stream = BytesIO()
    dataset.save_as(stream)
    differences, _ = compare_objects(report, parse(stream.getvalue()))
    assert code in {one.code for one in differences}


def test_nothing_that_shows_the_patient_is_among_the_classes_that_are_copied():
    names = {uid: pydicom.uid.UID(uid).name for uid in COPIED}
    assert all(name != uid for uid, name in names.items()), "an unknown class"
    assert not [name for name in names.values() if "Image Storage" in name]
    assert not {"Raw Data Storage", "Parametric Map Storage", "MR Spectroscopy Storage"} & set(
        names.values()
    )
