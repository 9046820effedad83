"""Which compressed transfer syntaxes this installation reads and writes; tried, where it can be."""

from __future__ import annotations

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder

from salm_dicom.dicom.writers import ENCODERS

READ = (
    uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless,
    uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless,
    uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K,
)  # fmt: skip


def codecs() -> dict[str, bool]:
    """Return, by the name of each transfer syntax, whether it works here.

    What protected files are written in is encoded and decoded again; of what is only read, that a
    decoder is there.
    """
    return {
        syntax.name: _round_trip(syntax, ENCODERS[syntax])
        if ENCODERS.get(syntax)
        else get_decoder(syntax).is_available
        for syntax in READ
    }


def _round_trip(syntax: uid.UID, plugin: str) -> bool:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    image.SOPInstanceUID = "2.25.1"
    image.Rows, image.Columns, image.SamplesPerPixel = 64, 64, 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    try:
        image.compress(syntax, pixels, encoding_plugin=plugin, generate_instance_uid=False)
        return bool(np.array_equal(image.pixel_array, pixels))
    except (RuntimeError, ValueError, AttributeError, NotImplementedError):
        return False
