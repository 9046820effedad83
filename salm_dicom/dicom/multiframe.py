"""One multi-frame file as a Volume: its frames in spatial order, one volume after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from salm_dicom.dicom.frames import volumes
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.part10 import Part10
from salm_dicom.dicom.voi import display_window
from salm_dicom.volume import Part, StoredPixels, Volume


def ordered(
    file: Part10, instance: InstanceHeader, pixels: StoredPixels
) -> tuple[Volume, tuple[int, ...]]:
    """Return the volume of a file, and for each of its slices the index of its frame.

    Parameters
    ----------
    pixels
        Of all frames, in the file's order.
    """
    found = volumes(file, instance)
    frames = tuple(one.instance_number - 1 for stack in found for one in stack.headers)
    stops = np.cumsum([len(stack.headers) for stack in found]).tolist()
    parts = tuple(
        Part(start=start, stop=stop, affine=stack.affine, irregular=stack.irregular)
        for start, stop, stack in zip([0, *stops], stops, found, strict=False)
    )
    several = len(parts) > 1
    volume = Volume(
        pixels=pixels.taken(np.array(frames)),
        affine=parts[0].affine,
        modality=instance.modality,
        photometric=str(instance.pixel_format[3]),
        irregular=f"the frames make {len(parts)} volumes" if several else parts[0].irregular,
        parts=parts if several else (),
        quantity=instance.quantity,
        window=display_window(file, frames[len(frames) // 2]),
    )
    return volume, frames


def in_file_order(values: NDArray[np.integer], frames: tuple[int, ...]) -> NDArray[np.integer]:
    """Return slices of a volume in the order of the file's frames."""
    if not frames:
        return values
    out = np.empty_like(values)
    out[list(frames)] = values
    return out
