"""Series: read the volumes of one NIfTI file; write the protected file and its sidecar."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import (
    AlreadyProtected,
    Changed,
    MismatchError,
    NotImage,
    UnsupportedPixels,
)
from salm_dicom.folder import WholeFolder
from salm_dicom.nifti import sidecar
from salm_dicom.nifti.image import NiftiImage, parse, read
from salm_dicom.nifti.orientation import flips, turned, turned_affine, why_irregular
from salm_dicom.quantity import check_allowed
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers, StoredPixels, Volume

# float32, in which surrogates see stored values, is exact up to here.
_MOST_BITS = 24
# Of neighbours that are no background, more than this share is equal in a label map; noise keeps
# it far lower in an image. The test of all shared NIfTI files tells the two apart.
_LABELS = 0.8
# intent_code: none, and a time series.
_IMAGE_INTENTS = (0, 2001)
# So many different values are counted one by one.
_MOST_COUNTED = 1 << 16
NAME = "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiOrigin:
    """The file that volumes came from, and its SHA-256, uncompressed."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiSeries:
    """The volumes of one file, one for each frame, and whose they are.

    Parameters
    ----------
    series_uid
        What the sidecar names, else made from the content. It seeds methods, so it is no hash
        that a written file shows.
    file_sha256
        Of the file on disk, compressed or not.
    """

    volumes: tuple[Volume, ...]
    origin: NiftiOrigin
    series_uid: str
    file_sha256: str


def read_nifti(
    path: Path, modality: str | None = None, *, allow_quantitative: bool = False
) -> NiftiSeries:
    """Return the volumes of one file, the way up a DICOM series is (`orientation`).

    Parameters
    ----------
    modality
        DICOM's *Modality*, for a file whose sidecar does not say.
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).

    Raises
    ------
    InputError
        The file cannot be protected exactly; its code says why.
    """
    beside = sidecar.read_sidecar(path)
    if sidecar.OURS in beside:
        raise AlreadyProtected("written by salm_dicom; protect the source instead")
    image = read(path)
    _check_is_image(image)
    kind = sidecar.modality_of(beside, modality)
    measured = sidecar.quantity_of(beside, kind)
    check_allowed(measured, allow_quantitative)
    shape = image.voxels().shape
    affine = turned_affine(image.affine, (shape[3], shape[2], shape[1]), turn_of(image))
    return NiftiSeries(
        volumes=tuple(
            Volume(
                pixels=stored_pixels(image, frame),
                affine=affine,
                modality=kind,
                irregular=why_irregular(affine),
                quantity=measured,
            )
            for frame in range(shape[0])
        ),
        origin=NiftiOrigin(path=path, sha256=image.sha256),
        series_uid=sidecar.series_uid_of(beside) or _uid_from(image),
        file_sha256=image.file_sha256,
    )


def _check_is_image(image: NiftiImage) -> None:
    """Raise when the voxels are labels, statistics or vectors."""
    if int(image.header["intent_code"]) not in _IMAGE_INTENTS:
        raise NotImage("intent_code says labels, statistics or vectors; it is not copied")
    for values in image.voxels():
        background, pairs, equal = _most_common(values), 0, 0
        for plane in values:
            first, second = plane[:, :-1], plane[:, 1:]
            inside = (first != background) & (second != background)
            pairs += int(np.count_nonzero(inside))
            equal += int(np.count_nonzero((first == second) & inside))
        if pairs and equal > _LABELS * pairs:
            raise NotImage("neighbours are equal nearly everywhere: a label map; it is not copied")


def _most_common(values: NDArray[Any]) -> int:
    """Return the value that most voxels have: counted where that is quicker than sorting."""
    least, most = int(values.min()), int(values.max())
    if most - least >= _MOST_COUNTED:
        found, counts = np.unique(values, return_counts=True)
        return int(found[np.argmax(counts)])
    counts = np.zeros(most - least + 1, dtype=np.int64)
    for plane in values:
        counts += np.bincount(plane.astype(np.int64).reshape(-1) - least, minlength=counts.size)
    return least + int(np.argmax(counts))


def _uid_from(image: NiftiImage) -> str:
    """Return what stands for a Series Instance UID.

    It is made from the bytes, not from the SHA-256 that the sidecar shows: whoever could compute
    it from there could guess seeds.
    """
    return hashlib.sha256(b"salm_dicom series of NIfTI\0" + image.data).hexdigest()


def stored_pixels(image: NiftiImage, frame: int) -> StoredPixels:
    """Return the stored values of one frame, (slices, rows, columns), native byte order.

    Integers of 32 and 64 bits are kept as int32; *Bits Stored* is then 16, or up to 24 and the
    sign, whatever the values need.
    """
    voxels = image.voxels()
    bits, is_signed = 8 * voxels.dtype.itemsize, voxels.dtype.kind == "i"
    kind = voxels.dtype.newbyteorder("=")
    if bits > 16:
        bits, kind = _bits_needed(voxels) + is_signed, np.dtype(np.int32)
    values = np.array(turned(voxels[frame], turn_of(image)), dtype=kind, order="C")
    slope, intercept = image.scaling
    return StoredPixels(
        values=values,
        slope=np.full(len(values), slope),
        intercept=np.full(len(values), intercept),
        bits_stored=bits,
        signed=is_signed,
    )


def turn_of(image: NiftiImage) -> tuple[bool, bool, bool]:
    """Return which of i, j and k the reader turns round; none where nothing says left or right."""
    return flips(image.affine) if image.is_oriented else (False, False, False)


def _bits_needed(voxels: NDArray[Any]) -> int:
    """Return 15, 16 or 24: bits without sign that hold every voxel."""
    least, most = int(voxels.min()), int(voxels.max())
    widest = max(most, -least - 1, 0).bit_length()
    bits = 15 if voxels.dtype.kind == "i" else 16
    if widest > _MOST_BITS:
        raise UnsupportedPixels(
            f"stored values need {widest} bits; up to {_MOST_BITS} can be protected exactly"
        )
    return bits if widest <= bits else _MOST_BITS


# Given a frame's index and its stored pixels, returns the stored units to add, same shape.
ChangeOf = Callable[[int, StoredPixels], Integers]


def write_nifti(
    origin: NiftiOrigin,
    change_of: ChangeOf,
    folder: Path,
    record: ProtectionRecord,
    *,
    modality: str,
    created: datetime,
) -> tuple[Path, Path]:
    """Write the protected file and its sidecar into a new folder and return their paths.

    Every byte but the changed voxels is the source's (of a compressed file: once uncompressed).
    Both appear together, or not at all (`WholeFolder`).

    Parameters
    ----------
    origin
        The source; it is read again and must be the one that was read before.
    change_of
        What to add to each frame; asked in order, in the grid of `read_nifti`.
    record
        What was done; its budget is enforced.

    Raises
    ------
    MismatchError
        What would be written is not what was meant.
    Changed
        The source is not the file that was read.
    """
    source = read(origin.path)
    if source.sha256 != origin.sha256:
        raise Changed("the source file changed while it was being protected; run again")
    image, largest = _protected(source, change_of, record)
    raw = image.to_file()
    if parse(raw).data != image.data:
        raise MismatchError("reading the written file does not give what was meant")
    about = sidecar.provenance(
        record,
        modality=modality,
        created=created,
        source_sha256=source.sha256,
        image_sha256=image.sha256,
        largest=(largest, largest * abs(source.scaling[0])),
    )
    name = f"{NAME}.nii.gz" if image.is_gzip else f"{NAME}.nii"
    with WholeFolder(folder) as out:
        out.write(name, raw)
        out.write(f"{NAME}.json", about)
    return folder / name, folder / f"{NAME}.json"


def _protected(
    source: NiftiImage, change_of: ChangeOf, record: ProtectionRecord
) -> tuple[NiftiImage, int]:
    """Return the image with every frame changed, and the largest change in stored units."""
    voxels, largest = source.voxels().copy(), 0
    turn = turn_of(source)
    meant: list[Integers] = []
    for frame in range(len(voxels)):
        before = stored_pixels(source, frame)
        delta = change_of(frame, before)
        meant.append(before.shifted(delta).values)
        largest = max(largest, int(delta.max(initial=0)), -int(delta.min(initial=0)))
        if largest > record.budget_stored:
            raise MismatchError(
                f"a value would change by {largest} stored units, {record.budget_stored} are "
                "allowed"
            )
        voxels[frame] += turned(delta, turn).astype(voxels.dtype)
    image = source.with_voxels(voxels)
    if not largest:
        raise MismatchError("no voxel of the image differs from the source; was SALM applied?")
    for frame, values in enumerate(meant):
        if not np.array_equal(stored_pixels(image, frame).values, values):
            raise MismatchError("the written voxels are not what was meant")
    return image, largest
