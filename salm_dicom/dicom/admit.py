"""Admit one file: the header of an image or object, or the code that says why it stays outside."""

from __future__ import annotations

import stat
from pathlib import Path

from pydicom.uid import UID, MediaStorageDirectoryStorage

from salm_dicom.dicom import header as h
from salm_dicom.dicom import pixels
from salm_dicom.dicom.codestreams import check_ratio
from salm_dicom.dicom.frames import check_frames
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import COPIED, ObjectHeader, object_header
from salm_dicom.dicom.part10 import text
from salm_dicom.dicom.peek import read_header
from salm_dicom.dicom.quantitative import completed
from salm_dicom.dicom.writers import WRITERS
from salm_dicom.errors import (
    AlreadyProtected,
    MissingTag,
    NotImage,
    NotRegularFile,
    Truncated,
    UnsupportedPixels,
)
from salm_dicom.quantity import check_allowed


def image_header(path: Path, *, allow_quantitative: bool = False) -> InstanceHeader:
    """Return the header of an image that can be protected, or raise the code that says why not.

    Parameters
    ----------
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """
    found = instance_header(path, allow_quantitative=allow_quantitative)
    if isinstance(found, InstanceHeader):
        return found
    what = "DICOMDIR: an index of the export" if found is None else _class_name(found.sop_class)
    raise NotImage(f"{what} is not an image")


def instance_header(
    path: Path, *, allow_quantitative: bool = False
) -> InstanceHeader | ObjectHeader | None:
    """Return the header of an image that can be protected, or of an object that can be copied.

    None stands for a DICOMDIR. What can be neither raises the code that says why not.
    """
    if not stat.S_ISREG(_mode(path)):
        raise NotRegularFile("not a regular file (folder link, fifo, socket or device)")
    file, next_tag, rest = read_header(path)
    if text(file.meta.get(h.META_SOP_CLASS_UID, b"")) == MediaStorageDirectoryStorage:
        return None
    if rest < 0:
        raise Truncated(f"the file ends {-rest} bytes inside an element of the header")
    sop_class = h.text_of(file, h.SOP_CLASS_UID)
    if sop_class in COPIED:
        return object_header(file, path)
    if h.ROWS not in file:
        if sop_class in WRITERS:
            raise MissingTag("(0028,0010) Rows is missing: a header without an image")
        raise NotImage(f"{_class_name(sop_class)} is not an image; it is not copied")
    instance = completed(file, h.header(file, path))
    _check_supported(instance, allow_quantitative)
    pixels.check_pixel_tag(next_tag if rest >= 4 else pixels.PIXEL_DATA, file)
    pixels.check_format(file)
    element_header = 8 if file.is_implicit_vr else 12
    least = element_header + pixels.raw_bytes(file)
    if file.transfer_syntax.is_encapsulated:
        least = 20 + 8 * instance.frames  # element and offset table headers; a fragment's for each
        check_ratio(file, pixels.raw_bytes(file), rest)
    if rest < least:
        raise Truncated(f"{rest} bytes are left for the pixel data; {least} are needed")
    check_frames(file, needs_groups=WRITERS[instance.sop_class].functional_groups)
    return instance


def _check_supported(instance: InstanceHeader, allow_quantitative: bool) -> None:
    """Raise the code that says why an image of this kind is not protected, if so."""
    name = _class_name(instance.sop_class)
    if instance.modality == "SEG":
        raise NotImage(f"{name} is not an image of a patient; it is not copied")
    if instance.is_protected:
        raise AlreadyProtected("written by salm_dicom; protect the source instead")
    check_allowed(instance.quantity, allow_quantitative)
    if instance.sop_class not in WRITERS:
        raise UnsupportedPixels(f"{name} is not supported yet")
    if instance.frames > 1 and not WRITERS[instance.sop_class].multi_frame:
        raise UnsupportedPixels(f"{instance.frames} frames; {name} has one")


def _class_name(sop_class: str) -> str:
    name = UID(sop_class).name if sop_class else "an object without SOP Class UID"
    return name if name != sop_class else "an object of unknown SOP class"


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0
