"""StoredPixels of one file, and of the files of a volume as one stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom import pixels
from salm_dicom.dicom.frames import mapping
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.samples import Shape
from salm_dicom.volume import Integers, StoredPixels


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


def joined(slices: Sequence[StoredPixels], values: Integers) -> StoredPixels:
    """Return slices of one volume as one stack; padding is the widest of theirs.

    Parameters
    ----------
    values
        The stack's stored values, (slices, rows, columns).
    """
    edges = [one.padding for one in slices if one.padding is not None]
    return replace(
        slices[0],
        values=values,
        slope=np.concatenate([one.slope for one in slices]),
        intercept=np.concatenate([one.intercept for one in slices]),
        padding=(min(a for a, _ in edges), max(b for _, b in edges)) if edges else None,
        room=_joined_room(slices),
    )


def _joined_room(slices: Sequence[StoredPixels]) -> Integers | None:
    """Return the room of all slices; where one says nothing, Bits Stored is its only limit."""
    if all(one.room is None for one in slices):
        return None
    most = slices[0].representable[1]
    kind = np.min_scalar_type(most)
    return np.concatenate(
        [np.full(s.values.shape, most, kind) if s.room is None else s.room for s in slices]
    )
