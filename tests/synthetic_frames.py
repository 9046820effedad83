"""Makes colour and multi-frame images in code: photographs, ultrasound, enhanced CT and MR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    BreastTomosynthesisImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from tests.phantom import phantom
from tests.synthetic import uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_FRAME_TYPES = {
    EnhancedCTImageStorage: "CTImageFrameTypeSequence",
    LegacyConvertedEnhancedCTImageStorage: "CTImageFrameTypeSequence",
    EnhancedMRImageStorage: "MRImageFrameTypeSequence",
    BreastTomosynthesisImageStorage: "XRay3DFrameTypeSequence",
}
_MODALITIES = {EnhancedMRImageStorage: "MR", BreastTomosynthesisImageStorage: "MG"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where one frame of an enhanced image lies, what tells it apart, and how it maps."""

    position: tuple[float, float, float]
    orientation: tuple[float, ...] = AXIAL
    slope: float = 1.0
    intercept: float = 0.0
    echo: float | None = None
    b_value: float | None = None
    component: str = ""
    time: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnhancedRecipe:
    """An enhanced image of some class; what all frames have in common is in the shared item."""

    frames: tuple[Frame, ...]
    sop_class: str = EnhancedCTImageStorage
    rows: int = 40
    columns: int = 36
    transfer_syntax: str = ExplicitVRLittleEndian
    shared_derivation: bool = False
    real_world: bool = False
    pixel_range: bool = False
    seed: int = 0


def stack(count: int, gap_mm: float = 2.0, **frame: Any) -> tuple[Frame, ...]:
    """Return parallel frames, one above the other."""
    return tuple(Frame(position=(0.0, 0.0, gap_mm * n), **frame) for n in range(count))


def write_enhanced(path: Path, recipe: EnhancedRecipe) -> Path:
    """Write one enhanced image and return its file."""
    dataset = _header(recipe.sop_class, _MODALITIES.get(recipe.sop_class, "CT"), recipe.seed)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    values = enhanced_values(recipe)
    _pixel_format(dataset, values.shape[1:], 16, "MONOCHROME2")
    dataset.NumberOfFrames = len(values)
    dataset.FrameOfReferenceUID = uid("frame of reference", recipe.seed)
    dataset.SharedFunctionalGroupsSequence = [_shared(recipe)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _own(recipe, number, frame) for number, frame in enumerate(recipe.frames, start=1)
    ]
    if recipe.pixel_range:
        dataset.SmallestImagePixelValue = int(values.min())
        dataset.LargestImagePixelValue = int(values.max())
    return _save(dataset, path, values, recipe.transfer_syntax)


def enhanced_values(recipe: EnhancedRecipe) -> NDArray[np.uint16]:
    """Return the stored values of an enhanced image in the order of its frames."""
    seed = [recipe.seed, 7]
    found = phantom(len(recipe.frames), recipe.rows, recipe.columns, lungs=False, seed=seed)
    values = np.stack(list(found)) + 1024
    slopes = np.array([f.slope for f in recipe.frames])[:, None, None]
    intercepts = np.array([f.intercept for f in recipe.frames])[:, None, None]
    wanted = values - 1024 if recipe.sop_class != EnhancedMRImageStorage else values
    return np.clip(np.rint((wanted - intercepts) / slopes), 0, 65535).astype(np.uint16)


def _shared(recipe: EnhancedRecipe) -> Dataset:
    item = Dataset()
    item.PixelMeasuresSequence = [_item(PixelSpacing=[0.5, 0.75], SliceThickness=2.0)]
    if len({f.orientation for f in recipe.frames}) == 1:
        orientation = list(recipe.frames[0].orientation)
        item.PlaneOrientationSequence = [_item(ImageOrientationPatient=orientation)]
    frame_type = _item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    setattr(item, _FRAME_TYPES[recipe.sop_class], [frame_type])
    if recipe.shared_derivation:
        item.DerivationImageSequence = [
            _item(
                DerivationCodeSequence=[_code("113072", "Multiplanar reformatting")],
                SourceImageSequence=[],
            )
        ]
    if recipe.real_world:
        item.RealWorldValueMappingSequence = [_item(RealWorldValueSlope=1.0)]
    return item


def _own(recipe: EnhancedRecipe, number: int, frame: Frame) -> Dataset:
    item = Dataset()
    content = _item(DimensionIndexValues=[1, number], FrameAcquisitionNumber=1)
    if frame.time is not None:
        content.TemporalPositionIndex = frame.time
    item.FrameContentSequence = [content]
    item.PlanePositionSequence = [_item(ImagePositionPatient=list(frame.position))]
    item.PixelValueTransformationSequence = [
        _item(RescaleIntercept=frame.intercept, RescaleSlope=frame.slope, RescaleType="US")
    ]
    if len({f.orientation for f in recipe.frames}) > 1:
        item.PlaneOrientationSequence = [_item(ImageOrientationPatient=list(frame.orientation))]
    if frame.echo is not None:
        item.MREchoSequence = [_item(EffectiveEchoTime=frame.echo)]
    if frame.b_value is not None:
        item.MRDiffusionSequence = [_item(DiffusionBValue=frame.b_value)]
    if frame.component:
        kind = _item(FrameType=["ORIGINAL", "PRIMARY"], ComplexImageComponent=frame.component)
        item.MRImageFrameTypeSequence = [kind]
    block = item.private_block(0x0019, "SALM SYNTHETIC", create=True)
    block.add_new(1, "LO", f"frame {number}")
    return item


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourRecipe:
    """A grey or colour image of 8 or 16 bits; several frames make it a multi-frame one."""

    photometric: str = "RGB"
    planar: int = 0
    frames: int = 1
    rows: int = 33
    columns: int = 40
    bits: int = 8
    sop_class: str = ""
    modality: str = "US"
    regions: tuple[tuple[int, int, int, int], ...] = ()
    transfer_syntax: str = ExplicitVRLittleEndian
    vr: str = ""
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def write_colour(path: Path, recipe: ColourRecipe) -> Path:
    """Write one image; its samples are as `colour_samples` says."""
    default = UltrasoundMultiFrameImageStorage if recipe.frames > 1 else UltrasoundImageStorage
    dataset = _header(recipe.sop_class or default, recipe.modality, recipe.seed)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    samples = colour_samples(recipe)
    _pixel_format(dataset, (recipe.rows, recipe.columns), recipe.bits, recipe.photometric)
    if recipe.frames > 1:
        dataset.NumberOfFrames = recipe.frames
    if samples.ndim == 4:
        dataset.SamplesPerPixel = 3
        dataset.PlanarConfiguration = recipe.planar
    if recipe.regions:
        names = ("MinX0", "MinY0", "MaxX1", "MaxY1")
        dataset.SequenceOfUltrasoundRegions = [
            _item(**{f"RegionLocation{n}": edge for n, edge in zip(names, region, strict=True)})
            for region in recipe.regions
        ]
    for keyword, value in recipe.extra.items():
        setattr(dataset, keyword, value)
    return _save(dataset, path, samples, recipe.transfer_syntax, recipe)


def colour_samples(recipe: ColourRecipe) -> NDArray[Any]:
    """Return (frames, rows, columns[, 3]): a bright disc with texture on a dark ground."""
    rng = np.random.default_rng(recipe.seed)
    top = 2**recipe.bits - 1
    shape = (recipe.frames, recipe.rows, recipe.columns)
    row, column = np.indices(shape[1:]) / np.array(shape[1:])[:, None, None] - 0.5
    inside = np.hypot(row, column) < 0.45
    grey = np.where(inside, rng.uniform(0.3, 0.7, shape), 0.0)
    if not recipe.photometric.startswith("MONOCHROME"):
        tint = rng.uniform(0.7, 1.2, (*shape, 3))
        grey = grey[..., None] * tint
        if recipe.photometric == "YBR_FULL_422":  # two pixels share one Cb and one Cr
            grey[:, :, 1::2, 1:] = grey[:, :, ::2, 1:]
    return np.rint(grey * top).astype(f"u{recipe.bits // 8}")


def _words(samples: NDArray[Any], recipe: ColourRecipe | None) -> NDArray[Any]:
    """Return samples in the order in which uncompressed Pixel Data holds them."""
    if recipe is None or samples.ndim == 3:
        return samples
    if recipe.photometric == "YBR_FULL_422":
        pairs = samples.reshape(*samples.shape[:2], -1, 2, 3)
        luma, chroma = pairs[..., 0], pairs[..., 0, 1:]
        return np.concatenate([luma, chroma], axis=-1)
    return np.moveaxis(samples, -1, 1) if recipe.planar else samples


def _header(sop_class: str, modality: str, seed: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(sop_class)
    instance = uid("instance", sop_class, modality, seed)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = uid("study", seed)
    dataset.SeriesInstanceUID = uid("series", sop_class, modality, seed)
    dataset.PatientName, dataset.PatientID = "Synthetic^Patient", "SYN001"
    dataset.StudyDate, dataset.StudyTime = "20200102", "101112"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = modality, 1, 1
    dataset.Manufacturer, dataset.BurnedInAnnotation = "salm_dicom tests", "NO"
    return dataset


def _pixel_format(dataset: Dataset, shape: Sequence[int], bits: int, photometric: str) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.Rows, dataset.Columns = shape
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0


def _save(
    dataset: Dataset,
    path: Path,
    samples: NDArray[Any],
    syntax: str,
    recipe: ColourRecipe | None = None,
) -> Path:
    is_big = syntax == ExplicitVRBigEndian
    words = _words(samples, recipe)
    data = words.astype(words.dtype.newbyteorder(">" if is_big else "<")).tobytes()
    data += b"\0" * (len(data) % 2)
    vr = (recipe.vr if recipe else "") or ("OB" if words.itemsize == 1 else "OW")
    if is_big and vr == "OW" and words.itemsize == 1:
        data = np.frombuffer(data, "<u2").byteswap().tobytes()
    dataset.add_new("PixelData", vr, data)
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if UID(syntax).is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if dataset.SamplesPerPixel == 3:
            dataset.PlanarConfiguration = 0
        array = samples if len(samples) > 1 else samples[0]
        plugin = "pyjpegls" if "4.80" in syntax else "pylibjpeg"
        dataset.compress(UID(syntax), array, encoding_plugin=plugin, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)
