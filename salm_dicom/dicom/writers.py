"""WRITERS: which SOP classes can take new pixels, and how; ENCODERS: in which transfer syntax."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import uid


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """How an object of one SOP class takes new pixels.

    Parameters
    ----------
    multi_frame
        Whether it may have several frames.
    functional_groups
        Whether it must say frame by frame where each lies (enhanced images).
    lists_references
        Whether the Common Instance Reference module is mandatory: the source is listed there too.
    """

    multi_frame: bool = False
    functional_groups: bool = False
    lists_references: bool = False


SINGLE = Writer()
MULTI = Writer(multi_frame=True)
ENHANCED = Writer(multi_frame=True, functional_groups=True)
CONVERTED = Writer(multi_frame=True, functional_groups=True, lists_references=True)

WRITERS: dict[str, Writer] = {
    uid.CTImageStorage: SINGLE,
    uid.MRImageStorage: SINGLE,
    uid.ComputedRadiographyImageStorage: SINGLE,
    uid.DigitalXRayImageStorageForPresentation: SINGLE,
    uid.DigitalXRayImageStorageForProcessing: SINGLE,
    uid.DigitalMammographyXRayImageStorageForPresentation: SINGLE,
    uid.DigitalMammographyXRayImageStorageForProcessing: SINGLE,
    uid.DigitalIntraOralXRayImageStorageForPresentation: SINGLE,
    uid.DigitalIntraOralXRayImageStorageForProcessing: SINGLE,
    uid.UltrasoundImageStorage: SINGLE,
    uid.UltrasoundMultiFrameImageStorage: MULTI,
    "1.2.840.10008.5.1.4.1.1.6": SINGLE,  # retired ultrasound classes
    "1.2.840.10008.5.1.4.1.1.3": MULTI,
    uid.SecondaryCaptureImageStorage: MULTI,  # several frames are retired, and common
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage: MULTI,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage: MULTI,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage: MULTI,
    uid.XRayAngiographicImageStorage: MULTI,
    uid.XRayRadiofluoroscopicImageStorage: MULTI,
    # What follows up to the next line is measurements: only if that is asked for.
    uid.PositronEmissionTomographyImageStorage: SINGLE,
    uid.NuclearMedicineImageStorage: MULTI,
    uid.EnhancedPETImageStorage: ENHANCED,
    uid.LegacyConvertedEnhancedPETImageStorage: CONVERTED,
    uid.ParametricMapStorage: ENHANCED,
    # Photographs.
    uid.VLEndoscopicImageStorage: SINGLE,
    uid.VLMicroscopicImageStorage: SINGLE,
    uid.VLPhotographicImageStorage: SINGLE,
    uid.VideoEndoscopicImageStorage: MULTI,
    uid.VideoPhotographicImageStorage: MULTI,
    uid.OphthalmicPhotography8BitImageStorage: MULTI,
    uid.OphthalmicPhotography16BitImageStorage: MULTI,
    uid.EnhancedCTImageStorage: ENHANCED,
    uid.EnhancedMRImageStorage: ENHANCED,
    uid.EnhancedMRColorImageStorage: ENHANCED,
    uid.LegacyConvertedEnhancedCTImageStorage: CONVERTED,
    uid.LegacyConvertedEnhancedMRImageStorage: CONVERTED,
    uid.BreastTomosynthesisImageStorage: ENHANCED,
    uid.XRay3DAngiographicImageStorage: ENHANCED,
    uid.XRay3DCraniofacialImageStorage: ENHANCED,
}

# Transfer syntaxes a protected instance keeps, and the encoder that writes them ("" = raw words).
# Any other source is written as Explicit VR Little Endian, as its data set is encoded already.
ENCODERS: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.DeflatedExplicitVRLittleEndian: "",
    uid.RLELossless: "pylibjpeg",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
}


def writer_of(sop_class: str) -> Writer:
    """Return how objects of a class are written; as a single frame if the class is unknown."""
    return WRITERS.get(sop_class, SINGLE)
