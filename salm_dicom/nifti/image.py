"""One single-file NIfTI image in memory: its uncompressed bytes, and where its voxels lie."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from salm_dicom.errors import (
    BadValue,
    DecodeError,
    EmptyFile,
    GeometryError,
    NotDicom,
    Truncated,
    Unreadable,
    UnsupportedPixels,
)
from salm_dicom.volume import Floats

SUFFIXES = (".nii", ".nii.gz")
# Header sizes of NIfTI-1 and NIfTI-2, their nibabel classes and the magic of a single file.
_VERSIONS: dict[int, tuple[Any, bytes, bytes]] = {
    348: (nib.Nifti1Header, b"n+1", b"ni1"),
    540: (nib.Nifti2Header, b"n+2", b"ni2"),
}
_LARGEST_HEADER = max(_VERSIONS)
_GZIP = b"\x1f\x8b"
# Deflate cannot pack more than this many bytes into one (RFC 1951).
_BEST_DEFLATE = 1032
# What one file may take in memory, uncompressed.
_MOST_BYTES = 4 << 30
# What may follow the voxels, e.g. the padding of a tape block.
_MOST_TRAILING = 1 << 20
_KINDS = {"f": "floating point", "c": "complex", "V": "colour or bit"}


@dataclass(frozen=True)
class NiftiImage:
    """One single-file NIfTI-1 or NIfTI-2 image.

    Parameters
    ----------
    data
        The whole file, uncompressed.
    header
        nibabel's view of the first bytes.
    is_gzip
        Whether the file on disk is compressed.
    file_sha256
        SHA-256 of the file on disk, hexadecimal.
    """

    data: bytes
    header: Any
    is_gzip: bool
    file_sha256: str

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the uncompressed file, hexadecimal; compressing anew does not change it."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def affine(self) -> Floats:
        """(i, j, k, 1) to RAS as sform, else qform, else pixdim say; (4, 4).

        Raises
        ------
        GeometryError
            It is not finite, or has no inverse.
        """
        try:
            affine = np.asarray(self.header.get_best_affine(), dtype=np.float64)
        except (HeaderDataError, ValueError) as error:
            raise GeometryError("sform and qform cannot be read; one is needed") from error
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise GeometryError("sform, qform or pixdim hold no number, or span no volume")
        return affine

    @property
    def is_oriented(self) -> bool:
        """Whether sform or qform say where left and right are."""
        return int(self.header["sform_code"]) > 0 or int(self.header["qform_code"]) > 0

    @property
    def scaling(self) -> tuple[float, float]:
        """Slope and intercept; a slope of 0 means that there is none, as does nibabel's NaN."""
        slope, intercept = float(self.header["scl_slope"]), float(self.header["scl_inter"])
        if slope == 0 or np.isnan(slope):
            return 1.0, 0.0
        if not (np.isfinite(slope) and np.isfinite(intercept)):
            raise BadValue("scl_slope or scl_inter is not a finite number")
        return slope, intercept

    def voxels(self) -> NDArray[Any]:
        """Return the stored values as they lie in the file: (frames, k, j, i), file byte order."""
        kind, shape = _kind(self.header), _shape(self.header)
        count = int(np.prod(shape, dtype=np.int64))
        flat = np.frombuffer(self.data, kind, count, _offset(self.header))
        return flat.reshape(shape[::-1])

    def with_voxels(self, voxels: NDArray[Any]) -> NiftiImage:
        """Return the image with other stored values; every other byte stays."""
        start = _offset(self.header)
        packed = voxels.astype(_kind(self.header), copy=False).tobytes()
        data = b"".join((self.data[:start], packed, self.data[start + len(packed) :]))
        return NiftiImage(data, self.header, self.is_gzip, hashlib.sha256(data).hexdigest())

    def to_file(self) -> bytes:
        """Return the file as it is written: the same bytes for the same content.

        A gzip header carries neither name nor time (RFC 1952).
        """
        return gzip.compress(self.data, 6, mtime=0) if self.is_gzip else self.data


def is_nifti(path: Path) -> bool:
    """Return whether the name says NIfTI; the content decides when it is read."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """Return the name without .nii or .nii.gz."""
    name = path.name
    ending = next((s for s in reversed(SUFFIXES) if name.lower().endswith(s)), "")
    return name[: len(name) - len(ending)]


def read(path: Path) -> NiftiImage:
    """Return a NIfTI image of integers with at most four dimensions.

    Raises
    ------
    InputError
        Its code says why the file cannot be protected exactly.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"the file cannot be opened ({type(error).__name__})") from error
    return parse(raw)


def parse(raw: bytes) -> NiftiImage:
    """Return the image of a file's bytes; see `read`."""
    if not raw:
        raise EmptyFile("the file has no bytes")
    is_gzip = raw.startswith(_GZIP)
    try:
        with gzip.GzipFile(fileobj=BytesIO(raw)) if is_gzip else BytesIO(raw) as stream:
            head = stream.read(_LARGEST_HEADER)
            header = _header(head)
            stop = _checked_stop(header)
            if is_gzip and stop > _BEST_DEFLATE * len(raw):
                raise Truncated("the compressed file is too short for the voxels it declares")
            data = raw if not is_gzip else head + stream.read(stop + _MOST_TRAILING + 1 - len(head))
    except EOFError as error:
        raise Truncated("the compressed file ends too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DecodeError("the file cannot be decompressed") from error
    if len(data) < stop:
        raise Truncated(f"the file ends {stop - len(data)} bytes before its voxels do")
    if len(data) > stop + _MOST_TRAILING:
        raise BadValue("the file goes on long after its voxels; dim, bitpix or vox_offset is wrong")
    return NiftiImage(data, header, is_gzip, hashlib.sha256(raw).hexdigest())


def _header(head: bytes) -> Any:
    """Return the header, in the byte order it has."""
    if len(head) < min(_VERSIONS):
        raise NotDicom("neither DICOM nor NIfTI: the file is shorter than a header")
    for order in "<>":
        size = int(np.frombuffer(head, f"{order}i4", 1)[0])
        if size in _VERSIONS and len(head) >= size:
            kind, single, pair = _VERSIONS[size]
            header = kind(head[:size], endianness=order, check=False)
            magic = bytes(header["magic"])[:3]
            if magic == pair:
                raise UnsupportedPixels("a pair of .hdr and .img; convert it to one .nii file")
            if magic == single:
                return header
    raise NotDicom("neither DICOM nor NIfTI: size and magic of the header do not fit")


def _checked_stop(header: Any) -> int:
    """Return where the voxels end; raise when this kind of image is not supported."""
    try:
        kind, offset = _kind(header), _offset(header)
    except (HeaderDataError, KeyError) as error:
        raise BadValue("datatype is unknown; integers of 8 to 64 bits are needed") from error
    if kind.kind not in "iu":
        found = _KINDS.get(kind.kind, "unknown")
        raise UnsupportedPixels(
            f"{found} voxels; stored integers are needed, as scanners and converters write them"
        )
    shape = _shape(header)
    if min(shape) < 1:
        raise BadValue("dim has a size below 1")
    if int(header["dim"][0]) < 2 or any(size > 1 for size in header.get_data_shape()[4:]):
        raise UnsupportedPixels("a slice, a volume or volumes over time are needed (2 to 4 dim)")
    stop = offset + kind.itemsize * int(np.prod([int(size) for size in shape], dtype=object))
    if offset < int(header["sizeof_hdr"]) + 4:
        raise BadValue("vox_offset points into the header")
    if stop > _MOST_BYTES:
        raise UnsupportedPixels(f"voxels take {stop >> 20} MiB; up to {_MOST_BYTES >> 20} MiB are")
    return stop


def _kind(header: Any) -> np.dtype[Any]:
    kind: np.dtype[Any] = header.get_data_dtype()
    return kind


def _offset(header: Any) -> int:
    value = float(header["vox_offset"])
    if not 0 <= value < _MOST_BYTES:
        raise BadValue("vox_offset cannot be used")
    return int(value)


def _shape(header: Any) -> tuple[int, int, int, int]:
    """Return i, j, k and frames; what is missing is 1."""
    if not 0 <= int(header["dim"][0]) <= 7:
        raise BadValue("dim[0] is not a number of dimensions (1 to 7)")
    i, j, k, frames = (*(int(size) for size in header.get_data_shape()[:4]), 1, 1, 1, 1)[:4]
    return i, j, k, frames
