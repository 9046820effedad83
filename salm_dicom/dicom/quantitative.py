"""What a DICOM image says of its values, for the rules of `salm_dicom.quantity`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from salm_dicom.dicom import header as h
from salm_dicom.dicom.frames import groups, placed
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import COPIED, ObjectHeader
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.references import uids_of
from salm_dicom.errors import InputError
from salm_dicom.quantity import MAPPED, Said, quantity

_RESCALE_TYPE = 0x00281054
_VALUES = 0x00289145  # Pixel Value Transformation Sequence
# Frame Type (0008,9007) of MR, CT, X-ray 3D, PET, parametric map.
_FRAME_TYPES = tuple(
    (sequence, 0x00089007)
    for sequence in (0x00189226, 0x00189329, 0x00189504, 0x00189751, 0x00409092)
)


def completed(file: Part10, instance: InstanceHeader) -> InstanceHeader:
    """Return the header with its place in space and why its values are measurements, if so.

    Raises
    ------
    BadValue, ParseError
    """
    found = placed(file, instance)
    why = quantity_of(file, instance)
    return replace(found, quantity=why) if why else found


def quantity_of(file: Part10, instance: InstanceHeader) -> str:
    """Return why the values of an image are measurements; empty when they are not.

    Raises
    ------
    BadValue, ParseError
        Functional groups cannot be read.
    """
    types, rescale_types = [*instance.image_type[2:]], [h.text_of(file, _RESCALE_TYPE)]
    is_mapped = h.REAL_WORLD_VALUE_MAP in file
    for frame in groups(file):
        types += [word for path in _FRAME_TYPES for word in frame.text(*path).split("\\")[2:]]
        rescale_types.append(frame.text(_VALUES, _RESCALE_TYPE))
        is_mapped = is_mapped or bool(frame.last([h.REAL_WORLD_VALUE_MAP]))
    return quantity(
        Said(
            modality=instance.modality,
            sop_class=instance.sop_class,
            types=Said.words(types),
            rescale_types=Said.words(rescale_types),
            units=h.text_of(file, h.UNITS),
            is_mapped=is_mapped,
        )
    )


def with_maps(
    instances: Sequence[InstanceHeader | ObjectHeader],
) -> list[InstanceHeader | ObjectHeader]:
    """Return the headers, with those images marked that an object maps to real-world values."""
    mapped = set(mapped_uids(one for one in instances if isinstance(one, ObjectHeader)))
    return [
        replace(one, quantity=MAPPED)
        if isinstance(one, InstanceHeader) and not one.quantity and one.sop_uid in mapped
        else one
        for one in instances
    ]


def mapped_uids(objects: Iterable[ObjectHeader]) -> Iterable[str]:
    """Yield every UID in the real world value mappings among the objects."""
    for one in objects:
        if COPIED[one.sop_class] == "real world value mapping":
            try:
                yield from (uid for _, uid in uids_of(read(one.path)))
            except InputError:
                continue  # it is left out when it is to be copied
