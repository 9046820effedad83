"""Each fault that is planted in a good protected file is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset

from salm_dicom.dicom.conformance import Instance, check
from salm_dicom.dicom.derive import Derivation
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.foreground import foreground
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from tests.synthetic import write_ct_series

Fault = Callable[[FileDataset, FileDataset], None]


class Pair:
    """One source instance with its protected one, and where it may have changed."""

    def __init__(self, folder: Path) -> None:
        paths = write_ct_series(folder / "in", slices=1, icon=True, pixel_range=True, padding=-2000)
        series = read_series(paths)
        protected = Protector(plan=ProtectionPlan(method="random")).apply(
            series.volume, series_uid=series.series_uid
        )
        derivation = Derivation(
            record=protected.record, created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"key"
        )
        write_series(
            series.origin, lambda i, _: protected.delta[i : i + 1], folder / "out", derivation
        )
        self.source = read(paths[0])
        self.protected = read(folder / "out" / "00001.dcm")
        pixels = series.volume.pixels
        self.may_change = foreground(pixels, "CT")[0]

    def codes(self, protected: Part10) -> set[str]:
        findings = check(
            Instance(self.source, stored_values(self.source)),
            Instance(protected, stored_values(protected)),
            may_change=self.may_change,
        )
        return {finding.code for finding in findings}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def changed_voxel(value: int, where: Callable[[Pair], np.ndarray]) -> Callable:
    def fault(new: FileDataset, old: FileDataset, pair: Pair) -> None:
        values = new.pixel_array.copy()
        row, column = np.argwhere(where(pair))[0]
        values[row, column] = value
        new.PixelData = values.tobytes()

    return fault


def set_to(keyword: str, value: object) -> Callable:
    return lambda new, old, pair: setattr(new, keyword, value)


def from_source(keyword: str) -> Callable:
    return lambda new, old, pair: setattr(new, keyword, getattr(old, keyword))


def without(keyword: str) -> Callable:
    return lambda new, old, pair: delattr(new, keyword)


def old_uid(new: FileDataset, old: FileDataset, pair: Pair) -> None:
    new.SOPInstanceUID = new.file_meta.MediaStorageSOPInstanceUID = old.SOPInstanceUID


def private_byte(new: FileDataset, old: FileDataset, pair: Pair) -> None:
    element = next(e for e in new if e.tag.is_private and e.VR in ("LO", "SH", "ST", "DS"))
    element.value = "1"


FAULTS = {
    "a reused SOP Instance UID": (old_uid, "UID_REUSED"),
    "a reused Series Instance UID": (from_source("SeriesInstanceUID"), "UID_REUSED"),
    "a meta UID of another instance": (
        lambda new, old, pair: setattr(new.file_meta, "MediaStorageSOPInstanceUID", "1.2.3"),
        "META_UID",
    ),
    "a changed background voxel": (
        changed_voxel(30, lambda p: ~p.may_change & (stored_values(p.source) > -2000)),
        "BACKGROUND_CHANGED",
    ),
    "a padding voxel that became one": (
        changed_voxel(-2000, lambda p: p.may_change), "PADDING_CHANGED",
    ),
    "a budget exceeded": (changed_voxel(900, lambda p: p.may_change), "BUDGET_EXCEEDED"),
    "a stale icon": (from_source("IconImageSequence"), "STALE_ICON"),
    "a stale smallest value": (set_to("SmallestImagePixelValue", 7), "STALE_RANGE"),
    "no derivation description": (without("DerivationDescription"), "NO_PROVENANCE"),
    "no derivation code": (without("DerivationCodeSequence"), "NO_PROVENANCE"),
    "no source image": (without("SourceImageSequence"), "NO_PROVENANCE"),
    "no contributing equipment": (without("ContributingEquipmentSequence"), "NO_PROVENANCE"),
    "no creation date": (without("InstanceCreationDate"), "NO_PROVENANCE"),
    "an image type that says original": (from_source("ImageType"), "NOT_DERIVED"),
    "a changed attribute": (set_to("PatientWeight", 71), "ATTRIBUTE_CHANGED"),
    "an added attribute": (set_to("OtherPatientIDs", "X"), "ATTRIBUTE_ADDED"),
    "a removed attribute": (without("PatientSex"), "ATTRIBUTE_REMOVED"),
    "a changed private attribute": (private_byte, "ATTRIBUTE_CHANGED"),
}  # fmt: skip


def test_a_good_instance_has_no_finding(pair):
    assert pair.codes(pair.protected) == set()


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(pair, name):
    fault, code = FAULTS[name]
    new = pydicom.dcmread(BytesIO(pair.protected.data))
    fault(new, pydicom.dcmread(BytesIO(pair.source.data)), pair)
    target = BytesIO()
    new.save_as(target, enforce_file_format=False)
    codes = pair.codes(parse(target.getvalue()))
    side_effects = {"STALE_RANGE"} if "voxel" in name or "budget" in name else set()
    if code == "PADDING_CHANGED":  # a voxel that becomes padding moves by more than the budget too
        side_effects |= {"BUDGET_EXCEEDED"}
    if code == "BACKGROUND_CHANGED":
        side_effects |= {"BUDGET_EXCEEDED"}
    assert code in codes
    assert codes <= {code} | side_effects
