"""Frames of a multi-frame image: where each lies, how it maps, and which volumes they make.

Functional groups say it frame by frame, or once for all in the shared item (PS3.3 C.7.6.16). An
image without them (ultrasound, angiography, secondary capture) has frames without geometry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from salm_dicom.dicom import header as h
from salm_dicom.dicom.geometry import Stack, stacks
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.items import Item, items_of
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.pixels import check_rescale, rescale
from salm_dicom.errors import BadValue, MissingTag
from salm_dicom.volume import Floats

SHARED = 0x52009229
PER_FRAME = 0x52009230
_POSITION = 0x00209113  # Plane Position Sequence
_ORIENTATION = 0x00209116  # Plane Orientation Sequence
_MEASURES = 0x00289110  # Pixel Measures Sequence
_VALUES = 0x00289145  # Pixel Value Transformation Sequence
_INTERCEPT = 0x00281052
_SLOPE = 0x00281053
# Attributes that tell apart the volumes of one file: path of sequences, and the last attribute.
_SPLITTING = (
    (0x00209111, 0x00209056),  # Frame Content: Stack ID
    (0x00209111, 0x00209128),  # Frame Content: Temporal Position Index
    (0x00209310, 0x0020930D),  # Temporal Position: Temporal Position Time Offset
    (0x00189114, 0x00189082),  # MR Echo: Effective Echo Time
    (0x00189117, 0x00189087),  # MR Diffusion: b-value
    (0x00189117, 0x00189076, 0x00189089),  # MR Diffusion: gradient orientation
    (0x00189226, 0x00089208),  # MR Image Frame Type: Complex Image Component
    (0x00189226, 0x00089007),  # MR Image Frame Type: Frame Type
    (0x00189329, 0x00089007),  # CT Image Frame Type: Frame Type
    (0x00189504, 0x00089007),  # X-Ray 3D Frame Type: Frame Type
    (0x00189118, 0x00209153),  # Cardiac Synchronization: Nominal Cardiac Trigger Delay Time
    (0x00189325, 0x00189330),  # CT X-Ray Details: KVP
)


@dataclass(frozen=True, slots=True)
class Groups:
    """The functional groups of one frame: its own item first, then the shared one."""

    own: Item
    shared: tuple[Item, ...]

    def last(self, path: Sequence[int]) -> tuple[Item, ...]:
        """Return the items at the end of a path of sequences, of the frame or else shared."""
        for start in (self.own, *self.shared):
            found: tuple[Item, ...] = (start,)
            for tag in path:
                found = tuple(inner for item in found for inner in item.items(tag))
            if found:
                return found
        return ()

    def text(self, *path: int) -> str:
        """Return a text or the encoded bytes of an attribute; empty when it is absent."""
        found = self.last(path[:-1])
        return found[0].text(path[-1]) if found else ""

    def numbers(self, count: int, *path: int) -> tuple[float, ...]:
        """Return a DS attribute of `count` finite numbers; an empty tuple when it is absent."""
        return h.numbers(self.text(*path), path[-1], count)


def groups(file: Part10) -> list[Groups]:
    """Return the functional groups of each frame; none for an image without them.

    Raises
    ------
    BadValue
        There are not as many items as frames.
    """
    if PER_FRAME not in file:
        return []
    shared, own = items_of(file, SHARED), items_of(file, PER_FRAME)
    if len(own) != h.frames_of(file):
        raise BadValue(
            f"functional groups for {len(own)} frames, {h.frames_of(file)} frames are declared"
        )
    return [Groups(item, shared) for item in own]


def check_frames(file: Part10, *, needs_groups: bool) -> None:
    """Raise the code that says why frames cannot be placed or mapped, if so.

    Raises
    ------
    MissingTag, BadValue, ParseError
    """
    if needs_groups and not groups(file):
        raise MissingTag("(5200,9230) an enhanced image without Per-frame Functional Groups")
    mapping(file)


def mapping(file: Part10) -> tuple[Floats, Floats]:
    """Return slope and intercept of each frame, float64, (frames,); 1 and 0 where it has none.

    Raises
    ------
    BadValue
    """
    frames, found = h.frames_of(file), groups(file)
    slope, intercept = rescale(file)
    slopes, intercepts = np.full(frames, slope), np.full(frames, intercept)
    for index, one in enumerate(found):
        for values, tag in ((slopes, _SLOPE), (intercepts, _INTERCEPT)):
            number = one.numbers(1, _VALUES, tag)
            if number:
                values[index] = number[0]
        check_rescale(float(slopes[index]), float(intercepts[index]))
    return slopes, intercepts


def volumes(file: Part10, instance: InstanceHeader) -> list[Stack]:
    """Return the volumes that the frames of a file make, in the order of their first frames.

    The header of a frame has the frame's number, from 1, as its instance number.
    """
    by_key: dict[tuple[object, ...], list[InstanceHeader]] = {}
    for frame in _headers(file, instance):
        by_key.setdefault(frame.volume_key, []).append(frame)
    return [stack for members in by_key.values() for stack in stacks(members)]


def placed(file: Part10, instance: InstanceHeader) -> InstanceHeader:
    """Return the header of an instance, of an enhanced one with a single frame with its geometry.

    Scanners write enhanced series of single frames too; these make volumes with one another.
    """
    if instance.frames > 1 or PER_FRAME not in file:
        return instance
    (frame,) = _headers(file, instance)
    return replace(frame, instance_number=instance.instance_number)


def _headers(file: Part10, instance: InstanceHeader) -> list[InstanceHeader]:
    found = groups(file)
    if not found:
        blank = replace(instance, position=(), orientation=())
        return [replace(blank, instance_number=n + 1) for n in range(instance.frames)]
    return [
        replace(
            instance,
            instance_number=number,
            position=one.numbers(3, _POSITION, h.POSITION),
            orientation=one.numbers(6, _ORIENTATION, h.ORIENTATION),
            spacing=one.numbers(2, _MEASURES, h.PIXEL_SPACING),
            splitting=tuple(one.text(*path) for path in _SPLITTING),
        )
        for number, one in enumerate(found, start=1)
    ]
