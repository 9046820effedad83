"""StoredPixels of one file, and of the files of a volume as one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom import pixels
from salm_dicom.dicom.frames import mapping
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.quantitative import completed
from salm_dicom.dicom.samples import Shape
from salm_dicom.dicom.voi import display_window
from salm_dicom.errors import GeometryError
from salm_dicom.volume import Floats, Integers, StoredPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `StoredPixels` say beside their values, see there."""

    slope: Floats
    intercept: Floats
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    room: Integers | None

    @classmethod
    def of(cls, pixels: StoredPixels) -> Calibration:
        """Return that of some pixels."""
        return cls(**{one.name: getattr(pixels, one.name) for one in fields(cls)})

    def with_values(self, values: Integers) -> StoredPixels:
        """Return the pixels that have these values."""
        return StoredPixels(
            values=values, **{one.name: getattr(self, one.name) for one in fields(self)}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """What a volume needs of one of its files, but for the stored values."""

    header: InstanceHeader
    calibration: Calibration
    window: tuple[float, float] | None


def read_file(path: Path) -> tuple[Part10, StoredPixels, ReadFile]:
    """Return a file, its pixels in its own order, and what a volume needs of it.

    Raises
    ------
    InputError
        It cannot be read exactly; its code says why.
    """
    file = read(path)
    instance = completed(file, h.header(file, path))
    pixels = stored_pixels(file)
    found = ReadFile(
        header=instance, calibration=Calibration.of(pixels), window=display_window(file)
    )
    return file, pixels, found


def put(pixels: StoredPixels, stack: Integers, index: int) -> None:
    """Put a file's slice into a volume's stack, (slices, rows, columns)."""
    if pixels.values.shape[1:] != stack.shape[1:] or pixels.values.dtype != stack.dtype:
        raise GeometryError("the files differ in size or pixel type; one volume is needed")
    stack[index] = pixels.values[0]


def stored_pixels(file: Part10) -> StoredPixels:
    """Return the pixels of one instance as a stack with a slice for each frame."""
    values = pixels.stored_values(file)  # first: it is what tells a false Number of Frames
    shape = Shape.of(file)
    slope, intercept = mapping(file)
    room = pixels.room(file)
    return StoredPixels(
        values=values.reshape(shape.pixels),
        slope=slope,
        intercept=intercept,
        bits_stored=h.short_of(file, h.BITS_STORED),
        signed=bool(h.short_of(file, h.PIXEL_REPRESENTATION)),
        padding=pixels.padding(file),
        room=None if room is None else room.reshape(shape.pixels),
    )


def joined(slices: Sequence[Calibration], values: Integers) -> StoredPixels:
    """Return slices of one volume as one stack; padding is the widest of theirs.

    Parameters
    ----------
    values
        The stack's stored values, (slices, rows, columns).
    """
    edges = [one.padding for one in slices if one.padding is not None]
    stack = replace(
        slices[0],
        slope=np.concatenate([one.slope for one in slices]),
        intercept=np.concatenate([one.intercept for one in slices]),
        padding=(min(a for a, _ in edges), max(b for _, b in edges)) if edges else None,
        room=None,
    ).with_values(values)
    return replace(stack, room=_joined_room(slices, stack))


def _joined_room(slices: Sequence[Calibration], stack: StoredPixels) -> Integers | None:
    """Return the room of all slices; where one says nothing, Bits Stored is its only limit."""
    if all(one.room is None for one in slices):
        return None
    most = stack.representable[1]
    full = np.full((1, *stack.values.shape[1:]), most, np.min_scalar_type(most))
    return np.concatenate([full if one.room is None else one.room for one in slices])
