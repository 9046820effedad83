"""Makes DICOM series in code: a phantom with noise under a full CT or MR header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.phantom import axes, phantom

# Lossless encoders; pydicom's own RLE encoder is ten times slower than pylibjpeg's.
_ENCODERS = {RLELossless: "pylibjpeg", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}
# Every transfer syntax that is written as it came.
RAW_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
SYNTAXES = [*RAW_SYNTAXES, RLELossless, JPEGLSLossless, JPEG2000Lossless]
_PIXEL_MM = 0.75
_IMPLEMENTATION = UID("2.25.302375087128474116187653121421838404451")

_STUDY = {
    "SpecificCharacterSet": "ISO_IR 100",
    **{f"{event}Date": "20200102" for event in ("Study", "Series", "Acquisition", "Content")},
    **{f"{event}Time": "101112.5" for event in ("Study", "Series", "Acquisition", "Content")},
    "AccessionNumber": "1", "StudyID": "1", "AcquisitionNumber": 1,
    "StudyDescription": "Synthetic study", "SeriesDescription": "Phantom", "ProtocolName": "Body",
    "Manufacturer": "salm_dicom tests", "ManufacturerModelName": "Phantom", "StationName": "CT1",
    "DeviceSerialNumber": "1", "SoftwareVersions": ["1", "2"], "InstitutionName": "Klinik Zürich",
    "DateOfLastCalibration": "20200101", "TimeOfLastCalibration": "070000",
    "ReferringPhysicianName": "", "OperatorsName": "Synthetic^Operator",
    "PatientName": "Synthetic^Patient", "PatientBirthDate": "19700101", "PatientSex": "O",
    "PatientAge": "049Y", "PatientWeight": 70, "PatientSize": 1.75, "PatientPosition": "HFS",
    "AdditionalPatientHistory": "", "PositionReferenceIndicator": "",
    "PerformedProcedureStepID": "1", "PerformedProcedureStepStartDate": "20200102",
    "PerformedProcedureStepStartTime": "101100", "ImageComments": "",
    "SamplesPerPixel": 1, "PixelSpacing": [_PIXEL_MM, _PIXEL_MM], "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00", "WindowCenter": [40, -600], "WindowWidth": [400, 1600],
    "WindowCenterWidthExplanation": ["SOFT", "LUNG"],
}  # fmt: skip
_CT = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "ScanOptions": "HELICAL MODE", "KVP": 120,
    "DataCollectionDiameter": 500, "DistanceSourceToDetector": 949,
    "DistanceSourceToPatient": 541, "GantryDetectorTilt": 0, "TableHeight": 150,
    "RotationDirection": "CW", "ExposureTime": 500, "XRayTubeCurrent": 200, "Exposure": 100,
    "FilterType": "BODY", "GeneratorPower": 24, "FocalSpots": 1.2,
    "ConvolutionKernel": "STANDARD", "RevolutionTime": 0.5, "SingleCollimationWidth": 0.625,
    "TotalCollimationWidth": 40.0, "TableSpeed": 78.75, "TableFeedPerRotation": 39.375,
    "SpiralPitchFactor": 0.984, "ExposureModulationType": "XYZ_EC", "CTDIvol": 6.5,
}  # fmt: skip
_MR = {
    "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"], "ScanningSequence": "GR",
    "SequenceVariant": "SP", "ScanOptions": "", "MRAcquisitionType": "3D", "RepetitionTime": 2000,
    "EchoTime": 3, "EchoTrainLength": 1, "FlipAngle": 8, "MagneticFieldStrength": 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesRecipe:
    """What a synthetic series looks like; the same recipe always gives the same bytes.

    With `bits_stored` up to 8 a pixel takes 8 bits, else 16; values that do not fit are clipped, so
    8 bits want a slope of about 8. `padding` is a stored value: it fills the corners outside the
    reconstruction circle. `gaps_mm` are the distances between consecutive slices, in place of
    `spacing_mm`. `direction` is where the next slice lies; by default along the slice normal, any
    other direction is a gantry tilt. MR has no rescale attributes. JPEG 2000 needs 32 x 32 pixels.
    """

    slices: int = 3
    rows: int = 64
    columns: int = 64
    signed: bool = True
    bits_stored: int = 16
    slope: float = 1.0
    intercept: float = -1024.0
    padding: int | None = None
    spacing_mm: float = 2.0
    gaps_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    direction: tuple[float, float, float] | None = None
    lungs: bool = True
    series_uid: str | None = None
    study_uid: str | None = None
    series_number: int = 1
    patient_id: str = "SYN001"
    modality: str = "CT"
    photometric: str = "MONOCHROME2"
    transfer_syntax: str = ExplicitVRLittleEndian
    icon: bool = False
    pixel_range: bool = False
    private: bool = True
    seed: int = 0


def write_ct_series(folder: Path, **recipe: Any) -> list[Path]:
    """Write `SeriesRecipe(**recipe)` into `folder`; return its files in slice order."""
    return write_series(folder, SeriesRecipe(**recipe))


def write_series(folder: Path, recipe: SeriesRecipe) -> list[Path]:
    """Write one file for each slice into `folder`; return them in slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    dataset = _header(recipe)
    for index, values in enumerate(stored_slices(recipe)):
        _set_slice(dataset, recipe, index, values)
        files.append(folder / f"IM{index + 1:05d}.dcm")
        _save(dataset, recipe, files[-1])
    return files


def stored_slices(recipe: SeriesRecipe) -> Iterator[NDArray[Any]]:
    """Yield the stored values of each slice, shape (rows, columns), as the files hold them."""
    dtype = np.dtype(f"{'i' if recipe.signed else 'u'}{_bits_allocated(recipe) // 8}")
    top = 2 ** (recipe.bits_stored - recipe.signed)
    low, high = (-top if recipe.signed else 0), top - 1
    outside = np.hypot(*axes(recipe.rows, recipe.columns)) > 1
    for hounsfield in _hounsfield(recipe):
        values: NDArray[Any]
        if recipe.modality == "MR":
            values = 0.5 * np.abs(hounsfield + 1000)
        else:
            values = (hounsfield - np.float32(recipe.intercept)) / np.float32(recipe.slope)
        stored = np.clip(np.rint(values), low, high).astype(dtype)
        if recipe.padding is not None:
            stored[outside] = recipe.padding
        yield stored


def uid(*parts: object) -> str:
    """Return a valid UID that depends on nothing but `parts`."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _hounsfield(recipe: SeriesRecipe) -> Iterator[NDArray[np.float32]]:
    seed = [recipe.seed, *recipe.patient_id.encode()]
    return phantom(recipe.slices, recipe.rows, recipe.columns, lungs=recipe.lungs, seed=seed)


def _bits_allocated(recipe: SeriesRecipe) -> int:
    return 8 if recipe.bits_stored <= 8 else 16


def _header(recipe: SeriesRecipe) -> Dataset:
    """Return everything that the instances of the series share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage if recipe.modality == "MR" else CTImageStorage
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "SALM_SYNTHETIC"
    dataset = Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    _set_study(dataset, recipe)
    _set_pixel_format(dataset, recipe)
    _set_modality(dataset, recipe)
    if recipe.private:
        _set_private(dataset, recipe)
    return dataset


def _set_study(dataset: Dataset, recipe: SeriesRecipe) -> None:
    study = recipe.study_uid or uid("study", recipe.seed, recipe.patient_id)
    series = uid("series", study, recipe.seed, recipe.modality, recipe.series_number)
    _set(dataset, _STUDY)
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = recipe.series_uid or series
    dataset.FrameOfReferenceUID = uid("frame of reference", study)
    dataset.SeriesNumber = recipe.series_number
    dataset.Modality = recipe.modality
    dataset.PatientID = recipe.patient_id
    dataset.BodyPartExamined = "CHEST" if recipe.lungs else "ABDOMEN"
    dataset.ProcedureCodeSequence = [_code("77477000", "SCT", "Computed tomography")]
    dataset.RequestAttributesSequence = [
        _set(Dataset(), {"RequestedProcedureID": "1", "ScheduledProcedureStepID": "1"})
    ]


def _set_pixel_format(dataset: Dataset, recipe: SeriesRecipe) -> None:
    dataset.PhotometricInterpretation = recipe.photometric
    dataset.Rows = recipe.rows
    dataset.Columns = recipe.columns
    dataset.SliceThickness = recipe.spacing_mm
    dataset.ImageOrientationPatient = list(recipe.orientation)
    dataset.BitsAllocated = _bits_allocated(recipe)
    dataset.BitsStored = recipe.bits_stored
    dataset.HighBit = recipe.bits_stored - 1
    dataset.PixelRepresentation = int(recipe.signed)
    if recipe.padding is not None:
        dataset.add_new("PixelPaddingValue", "SS" if recipe.signed else "US", recipe.padding)


def _set_modality(dataset: Dataset, recipe: SeriesRecipe) -> None:
    if recipe.modality == "MR":
        _set(dataset, _MR)
        dataset.SpacingBetweenSlices = recipe.spacing_mm
        return
    _set(dataset, _CT)
    dataset.CTDIPhantomTypeCodeSequence = [_code("113691", "DCM", "IEC Body Dosimetry Phantom")]
    dataset.ReconstructionDiameter = _PIXEL_MM * recipe.columns
    dataset.RescaleIntercept = recipe.intercept
    dataset.RescaleSlope = recipe.slope
    dataset.RescaleType = "HU"


def _set_private(dataset: Dataset, recipe: SeriesRecipe) -> None:
    """Add as many private elements as scanners do, of many kinds, a sequence among them."""
    block = dataset.private_block(0x0019, "SALM SYNTHETIC", create=True)
    for offset in range(0x10, 0x30):
        vr, value = (("DS", "1.50"), ("SL", -7), ("LO", "phantom"), ("FD", 0.1))[offset % 4]
        block.add_new(offset, vr, value)
    block.add_new(0x40, "OB", bytes(range(256)))
    block.add_new(0x41, "SQ", [_code("1", "99SALM", "Private")])
    block.add_new(0x42, "UL", [recipe.seed, 2**32 - 1])


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}
    return _set(Dataset(), item)


def _set(dataset: Dataset, values: dict[str, Any]) -> Dataset:
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _set_slice(dataset: Dataset, recipe: SeriesRecipe, index: int, values: NDArray[Any]) -> None:
    """Set what is different in each instance: identity, position, pixels."""
    row, column = np.array(recipe.orientation[:3]), np.array(recipe.orientation[3:])
    direction = np.array(recipe.direction) if recipe.direction else np.cross(row, column)
    gaps = recipe.gaps_mm or (recipe.spacing_mm,) * (recipe.slices - 1)
    corner = -_PIXEL_MM / 2 * ((recipe.columns - 1) * row + (recipe.rows - 1) * column)
    position = corner + [0.0, *accumulate(gaps)][index] * direction
    dataset.SOPInstanceUID = uid("instance", dataset.SeriesInstanceUID, index)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [round(float(p), 6) + 0.0 for p in position]
    dataset.SliceLocation = round(float(position @ np.cross(row, column)), 6)
    if recipe.pixel_range:
        vr = "SS" if recipe.signed else "US"
        dataset.add_new("SmallestImagePixelValue", vr, int(values.min()))
        dataset.add_new("LargestImagePixelValue", vr, int(values.max()))
    if recipe.icon:
        dataset.IconImageSequence = Sequence([_icon(values)])
    order = ">" if recipe.transfer_syntax == ExplicitVRBigEndian else "<"
    data = values.astype(f"{order}{values.dtype.str[1:]}").tobytes()
    data += b"\0" * (len(data) % 2)
    dataset.add_new("PixelData", "OB" if values.itemsize == 1 else "OW", data)
    dataset["PixelData"].is_undefined_length = False


def _icon(values: NDArray[Any]) -> Dataset:
    """Return a thumbnail of at most 64 x 64 pixels as an Icon Image Sequence item."""
    small = values[:: -(-values.shape[0] // 64), :: -(-values.shape[1] // 64)].astype(np.float64)
    span = max(float(np.ptp(small)), 1.0)
    item = Dataset()
    item.SamplesPerPixel = 1
    item.PhotometricInterpretation = "MONOCHROME2"
    item.Rows, item.Columns = small.shape
    item.BitsAllocated = item.BitsStored = 8
    item.HighBit = 7
    item.PixelRepresentation = 0
    data = ((small - small.min()) / span * 255).astype(np.uint8).tobytes()
    item.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))
    return item


def _save(dataset: Dataset, recipe: SeriesRecipe, path: Path) -> None:
    syntax = UID(recipe.transfer_syntax)
    if syntax in _ENCODERS:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, encoding_plugin=_ENCODERS[syntax], generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)
