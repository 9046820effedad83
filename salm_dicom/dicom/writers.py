"""WRITERS: which SOP classes can take new pixels, and how; CODECS: in which transfer syntax."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """How an object of one SOP class takes new pixels."""

    frames: str


SINGLE_FRAME = Writer(frames="single")

WRITERS: dict[str, Writer] = {
    CTImageStorage: SINGLE_FRAME,
    MRImageStorage: SINGLE_FRAME,
    ComputedRadiographyImageStorage: SINGLE_FRAME,
    DigitalXRayImageStorageForPresentation: SINGLE_FRAME,
    DigitalXRayImageStorageForProcessing: SINGLE_FRAME,
    DigitalMammographyXRayImageStorageForPresentation: SINGLE_FRAME,
    DigitalMammographyXRayImageStorageForProcessing: SINGLE_FRAME,
}

# Transfer syntaxes a protected instance keeps, and the encoder that writes them ("" = raw words).
# Any other source is written as Explicit VR Little Endian, as its data set is encoded already.
ENCODERS: dict[str, str] = {
    ImplicitVRLittleEndian: "",
    ExplicitVRLittleEndian: "",
    ExplicitVRBigEndian: "",
    RLELossless: "pylibjpeg",
    JPEGLSLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
}
