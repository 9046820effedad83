"""Compressed pixel data to words, by pydicom and its plug-ins, in this process."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import iter_pixels

from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.samples import Shape
from salm_dicom.errors import DecodeError
from salm_dicom.volume import Integers

# Image Pixel attributes, and Pixel Data with its offset tables.
_GROUPS = (0x0028, 0x7FE0)


def decoded(file: Part10, shape: Shape) -> Integers:
    """Return decoded words, (frames, rows, columns), and last the sample if there are several.

    Raises
    ------
    DecodeError
        No decoder takes them, or they are not what the header says.
    MemoryError
    """
    out: NDArray[Any] = np.empty(0)
    # without indices pydicom takes a shorter way, which knows less of bits and signs
    which = list(range(shape.frames))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for index, frame in enumerate(iter_pixels(_image_of(file), raw=True, indices=which)):
                if shape.frames == 1:
                    out = frame[None]
                    continue
                if not index:
                    out = np.empty((shape.frames, *frame.shape), dtype=frame.dtype)
                out[index] = frame
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a decoder in Rust panics past Exception
        raise DecodeError(f"the pixel data cannot be decoded ({type(error).__name__})") from error
    wanted = words_shape(shape)
    if out.shape != wanted or out.dtype.kind not in "iu":
        raise DecodeError(f"decoding gave {out.dtype} of shape {out.shape}, not {wanted}")
    return out


def _image_of(file: Part10) -> FileDataset:
    """Return what a decoder looks at: the file without all other groups.

    pydicom needs longer for a header of hundreds of elements than for the pixels.
    """
    kept = [s for s in file.spans if s.tag >> 16 in _GROUPS]
    parts = [file.data[: file.spans[0].start], *(file.data[s.start : s.stop] for s in kept)]
    return dcmread(BytesIO(b"".join(parts)))


def words_shape(shape: Shape) -> tuple[int, ...]:
    """Return the shape of decoded words."""
    return (*shape.pixels, shape.samples)[: 3 + (shape.samples > 1)]
