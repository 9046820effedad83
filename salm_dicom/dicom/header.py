"""InstanceHeader: the attributes that decide where an instance belongs and whether it can be read.

Values are taken from the elements' bytes: they are plain ASCII and numbers, and converting every
element of a million files costs more than reading them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydicom.uid import RE_VALID_UID

from salm_dicom.dicom.modalities import modality
from salm_dicom.dicom.part10 import Part10, text
from salm_dicom.errors import BadUid, BadValue, MissingTag

# Name of the manufacturer's model in our Contributing Equipment item; how we know our own work.
PRODUCT = "salm_dicom"

# Manufacturer's Model Name (0008,1090) with that value, in any encoding.
_OURS = re.compile(
    rb"(\x08\x00\x90\x10|\x00\x08\x10\x90)(LO..|....)" + PRODUCT.encode() + rb"([^ -~]|$)",
    re.DOTALL,
)

META_SOP_CLASS_UID = 0x00020002
META_SOP_UID = 0x00020003
STUDY_DATE = 0x00080020
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
IMAGE_TYPE = 0x00080008
MODALITY = 0x00080060
PATIENT_ID = 0x00100020
STUDY_UID = 0x0020000D
SERIES_UID = 0x0020000E
INSTANCE_NUMBER = 0x00200013
POSITION = 0x00200032
ORIENTATION = 0x00200037
FRAME_OF_REFERENCE = 0x00200052
SAMPLES = 0x00280002
PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006
FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
PIXEL_SPACING = 0x00280030
BITS_ALLOCATED = 0x00280100
BITS_STORED = 0x00280101
HIGH_BIT = 0x00280102
PIXEL_REPRESENTATION = 0x00280103
BODY_PART = 0x00180015
EQUIPMENT = 0x0018A001
UNITS = 0x00541001
REAL_WORLD_VALUE_MAP = 0x00409096
# Attributes that tell apart the volumes of one series (DICOM.md, Reading).
_SPLITTING = (
    0x00180081,  # Echo Time
    0x00180086,  # Echo Numbers
    0x00181060,  # Trigger Time
    0x00189087,  # Diffusion b-value
    0x00200100,  # Temporal Position Identifier
)
Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """What one instance says about itself; distances in mm, LPS; empty where it says nothing.

    `quantity` is why its values are measurements, where they are (`quantitative.completed`).
    """

    path: Path
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    patient_id: str
    modality: str
    image_type: tuple[str, ...]
    instance_number: int
    position: Vector
    orientation: Vector
    spacing: Vector
    pixel_format: tuple[str | int, ...]
    splitting: tuple[str, ...]
    is_protected: bool
    frames: int = 1
    study_date: str = ""
    quantity: str = ""

    @property
    def volume_key(self) -> tuple[object, ...]:
        """Equal for the instances that can be slices of one volume; a multi-frame file is alone."""
        turn = tuple(round(cosine, 2) + 0.0 for cosine in self.orientation)
        return (
            self.series_uid, self.pixel_format, turn, self.spacing,
            self.image_type[2:], self.splitting, self.sop_uid if self.frames > 1 else "",
        )  # fmt: skip


def header(file: Part10, path: Path) -> InstanceHeader:
    """Return the header of an image instance.

    Raises
    ------
    MissingTag, BadUid, BadValue
    """
    frames = frames_of(file)
    pixel_format = (
        short_of(file, ROWS), short_of(file, COLUMNS), short_of(file, SAMPLES),
        text_of(file, PHOTOMETRIC), short_of(file, BITS_ALLOCATED),
        short_of(file, BITS_STORED), short_of(file, PIXEL_REPRESENTATION),
        text_of(file, FRAME_OF_REFERENCE),
    )  # fmt: skip
    number = text_of(file, INSTANCE_NUMBER)
    identity = identity_of(file)
    return InstanceHeader(
        path=path,
        sop_class=identity.sop_class,
        sop_uid=identity.sop_uid,
        series_uid=identity.series_uid,
        study_uid=text_of(file, STUDY_UID),
        patient_id=text_of(file, PATIENT_ID),
        modality=modality(text_of(file, MODALITY)),
        study_date=text_of(file, STUDY_DATE),
        image_type=tuple(text_of(file, IMAGE_TYPE).split("\\")),
        instance_number=int(number) if re.fullmatch(r"[+-]?\d{1,12}", number) else 0,
        position=numbers(text_of(file, POSITION), POSITION, 3),
        orientation=numbers(text_of(file, ORIENTATION), ORIENTATION, 6),
        spacing=numbers(text_of(file, PIXEL_SPACING), PIXEL_SPACING, 2),
        pixel_format=pixel_format,
        splitting=tuple(text_of(file, tag) for tag in _SPLITTING),
        frames=frames,
        is_protected=is_protected(file),
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """SOP class, SOP instance and series of an instance; never empty."""

    sop_class: str
    sop_uid: str
    series_uid: str


def identity_of(file: Part10) -> Identity:
    """Return who an instance is, also when a careless anonymiser emptied its UIDs.

    An empty SOP Class or Instance UID is read from the file meta information, which repeats
    them. Instances with an empty Series Instance UID belong together when they share a frame of
    reference; without one, each is a series of its own.

    Raises
    ------
    BadUid
        A UID is nowhere in the file, or is not a valid UID.
    """
    sop_class = text_of(file, SOP_CLASS_UID) or text(file.meta.get(META_SOP_CLASS_UID, b""))
    sop_uid = text_of(file, SOP_INSTANCE_UID) or text(file.meta.get(META_SOP_UID, b""))
    _check_uid(sop_class, SOP_CLASS_UID)
    _check_uid(sop_uid, SOP_INSTANCE_UID)
    series_uid = text_of(file, SERIES_UID)
    if series_uid:
        _check_uid(series_uid, SERIES_UID)
    return Identity(sop_class, sop_uid, series_uid or text_of(file, FRAME_OF_REFERENCE) or sop_uid)


def text_of(file: Part10, tag: int) -> str:
    """Return a text attribute without padding; empty when missing."""
    return text(file.value(tag))


def is_protected(file: Part10) -> bool:
    """Return whether a Contributing Equipment item says that we wrote this instance."""
    return _OURS.search(file.value(EQUIPMENT)) is not None


def frames_of(file: Part10) -> int:
    """Return Number of Frames; 1 where the instance has none.

    Raises
    ------
    BadValue
        It is no positive number.
    """
    found = text_of(file, FRAMES)
    if not found:
        return 1
    if not re.fullmatch(r"\+?\d{1,12}", found) or not int(found):
        raise BadValue("(0028,0008) Number of Frames is not a positive whole number")
    return int(found)


def short_of(file: Part10, tag: int) -> int:
    """Return a US attribute that must be there."""
    value = file.value(tag)
    if not value:
        raise MissingTag(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or empty")
    if len(value) != 2:
        raise BadValue(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has {len(value)} bytes, not 2")
    return int.from_bytes(value, "little" if file.is_little_endian else "big")


def _check_uid(value: str, tag: int) -> None:
    if not value:
        raise BadUid(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing or empty")
    if not _is_uid(value):
        raise BadUid(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not a valid UID")


@lru_cache(maxsize=256)
def _is_uid(value: str) -> bool:
    """Return whether a value is a valid UID; those of one file are asked for again and again."""
    return len(value) <= 64 and re.match(RE_VALID_UID, value) is not None


def numbers(value: str, tag: int, count: int) -> Vector:
    """Return a DS value as `count` finite numbers; an empty tuple when it is empty.

    Raises
    ------
    BadValue
    """
    if not value:
        return ()
    try:
        found = tuple(float(part) for part in value.split("\\"))
    except ValueError:
        found = ()
    if len(found) != count or not all(map(math.isfinite, found)):
        raise BadValue(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is not {count} finite numbers")
    return found
