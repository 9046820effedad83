"""Makes objects that point at images: a report, a key object selection, a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.synthetic import uid

BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
_MODALITIES = {BASIC_TEXT_SR: "SR", KEY_OBJECTS: "KO"}


def write_report(
    path: Path,
    about: Sequence[Path],
    *,
    sop_class: str = BASIC_TEXT_SR,
    syntax: UID = ExplicitVRLittleEndian,
    number: int = 1,
    text: str = "Nothing of note",
) -> Dataset:
    """Write a report on the instances `about`, of their study, and return it."""
    evidence = [pydicom.dcmread(one, stop_before_pixels=True) for one in about]
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = syntax
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = sop_class
    report.SOPInstanceUID = uid("object", path.name, text)
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID
    report.SeriesInstanceUID = uid("object series", evidence[0].StudyInstanceUID, sop_class)
    _of_study(report, evidence[0])
    report.Modality = _MODALITIES[sop_class]
    report.SeriesNumber, report.InstanceNumber = 90, number
    report.ContentDate, report.ContentTime = "20200102", "101112"
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.ConceptNameCodeSequence = [_code("121070", "Findings")]
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(evidence)]
    report.ContentSequence = [_image(one) for one in evidence] + [_text(text)]
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save_as(path, enforce_file_format=True)
    return report


def write_segmentation(
    path: Path, about: Sequence[Path], mask: NDArray[np.uint8] | None = None
) -> Dataset:
    """Write a binary segmentation of a series, by highdicom, and return it.

    The mask is (slices, rows, columns); without one, a rectangle is marked on every slice.
    """
    images = [pydicom.dcmread(one) for one in about]
    if mask is None:
        planes = int(images[0].get("NumberOfFrames", len(images)))
        mask = np.zeros((planes, images[0].Rows, images[0].Columns), np.uint8)
        mask[:, 20:40, 24:36] = 1
    segment = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Liver",
        segmented_property_category=codes.SCT.Organ,
        segmented_property_type=codes.SCT.Liver,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    made = hd.seg.Segmentation(
        source_images=images,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=uid("segmentation", path.name),
        series_number=80,
        sop_instance_uid=uid("segmentation instance", path.name),
        instance_number=1,
        manufacturer="salm_dicom tests",
        manufacturer_model_name="Phantom",
        software_versions="1",
        device_serial_number="1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return made


def references(dataset: Dataset) -> set[str]:
    """Return every Referenced SOP Instance UID of a data set, at any depth."""
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }


def _of_study(report: Dataset, image: Dataset) -> None:
    for name in (
        "SpecificCharacterSet", "PatientID", "PatientName", "PatientBirthDate", "PatientSex",
        "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
        "ReferringPhysicianName", "Manufacturer",
    ):  # fmt: skip
        setattr(report, name, image[name].value)


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _evidence(images: list[Dataset]) -> Dataset:
    study, by_series = Dataset(), dict[str, Dataset]()
    study.StudyInstanceUID = images[0].StudyInstanceUID
    for image in images:
        series = by_series.setdefault(image.SeriesInstanceUID, Dataset())
        series.SeriesInstanceUID = image.SeriesInstanceUID
        old = list(series.get("ReferencedSOPSequence", []))
        series.ReferencedSOPSequence = [*old, _reference(image)]
    study.ReferencedSeriesSequence = list(by_series.values())
    return study


def _image(image: Dataset) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", "IMAGE"
    item.ReferencedSOPSequence = [_reference(image)]
    return item


def _text(text: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
    item.ConceptNameCodeSequence = [_code("121071", "Finding")]
    return item


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return code
