"""Samples: the pixel words of one image, and the planes of them that a change is added to.

A change is one integer for each pixel, whatever the colour model:

- monochrome: it is added to the stored value;
- RGB: the same integer is added to red, green and blue. In YCbCr that moves Y by exactly this
  integer and leaves Cb and Cr where they are (PS3.3 C.7.6.3.1.2), so only luminance changes;
- YBR_FULL and YBR_FULL_422: it is added to Y; the bytes of Cb and Cr stay.

The one stored value that a method sees of an RGB pixel is the integer luminance
(299 R + 587 G + 114 B + 500) / 1000: the weights add up to 1000, so adding an integer to all
three adds the same integer to it, without any rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom.part10 import Part10
from salm_dicom.errors import BadValue
from salm_dicom.volume import Integers

MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
# How decoded words of a colour model are to be read: codecs undo their own colour transform, and
# a decoder of JPEG gives Cb and Cr for every pixel.
DECODED = {
    "RGB": "RGB", "YBR_RCT": "RGB", "YBR_ICT": "RGB",
    "YBR_FULL": "YBR_FULL", "YBR_FULL_422": "YBR_FULL",
}  # fmt: skip
_WEIGHTS = (299, 587, 114)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the words of an image lie in its pixel data, by its header."""

    frames: int
    rows: int
    columns: int
    samples: int
    planar: int
    photometric: str

    @classmethod
    def of(cls, file: Part10) -> Shape:
        """Return the shape of an image's pixel data."""
        samples = h.short_of(file, h.SAMPLES)
        return cls(
            frames=h.frames_of(file),
            rows=h.short_of(file, h.ROWS),
            columns=h.short_of(file, h.COLUMNS),
            samples=samples,
            planar=h.short_of(file, h.PLANAR) if samples > 1 else 0,
            photometric=h.text_of(file, h.PHOTOMETRIC),
        )

    @property
    def words(self) -> int:
        """How many words the uncompressed pixels have; YBR_FULL_422 has two for each pixel."""
        each = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.frames * self.rows * self.columns * each

    @property
    def pixels(self) -> tuple[int, int, int]:
        """Frames, rows, columns."""
        return self.frames, self.rows, self.columns

    def decoded(self) -> Shape:
        """Return the shape that a decoder of compressed pixels gives: colour by pixel."""
        photometric = DECODED.get(self.photometric, self.photometric)
        return Shape(
            frames=self.frames,
            rows=self.rows,
            columns=self.columns,
            samples=self.samples,
            planar=0,
            photometric=photometric,
        )


def steps(words: Integers, shape: Shape) -> list[Integers]:
    """Return views into flat words, one for each plane that a change is added to.

    Each has as many elements as the image has pixels, in their order; its shape is whatever
    makes it a view.
    """
    frames, rows, columns = shape.pixels
    if shape.samples == 1:
        return [words.reshape(shape.pixels)]
    if shape.photometric == "YBR_FULL_422":
        if columns % 2:
            raise BadValue("YBR_FULL_422 with an odd number of columns")
        return [words.reshape(frames, rows, columns // 2, 4)[..., :2]]
    if shape.planar:
        by_sample = np.moveaxis(words.reshape(frames, 3, rows, columns), 1, 0)
    else:
        by_sample = np.moveaxis(words.reshape(frames, rows, columns, 3), -1, 0)
    return list(by_sample) if shape.photometric == "RGB" else [by_sample[0]]


def luminance(words: Integers, shape: Shape) -> Integers:
    """Return the one stored value of each pixel that a method sees, (frames, rows, columns)."""
    planes = steps(words, shape)
    if len(planes) == 1:
        return np.ascontiguousarray(planes[0]).reshape(shape.pixels)
    total = np.full(shape.pixels, 500, dtype=np.uint32)
    for weight, plane in zip(_WEIGHTS, planes, strict=True):
        total += np.uint32(weight) * plane
    result: Integers = (total // 1000).astype(words.dtype)
    return result


def room(words: Integers, shape: Shape) -> Integers | None:
    """Return how far each RGB pixel can go before a channel ends; None for other images."""
    planes = steps(words, shape)
    if len(planes) == 1:
        return None
    least, most = planes[0].copy(), planes[0].copy()
    for plane in planes[1:]:
        np.minimum(least, plane, out=least)
        np.maximum(most, plane, out=most)
    result: Integers = np.minimum(least, np.iinfo(words.dtype).max - most)
    return result


def added(words: Integers, shape: Shape, change: Integers) -> Integers:
    """Return words with a change, (frames, rows, columns), added to each plane.

    The sum wraps in silence: whoever made `change` has checked it (`StoredPixels.shifted`).
    """
    out = words.copy()
    for plane in steps(out, shape):
        plane += change.reshape(plane.shape).astype(words.dtype)
    return out
