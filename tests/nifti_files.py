"""Makes small NIfTI files in code: any datatype, byte order, orientation, gzip, extensions."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tests.phantom import phantom

RAS = np.array([[0.8, 0, 0, -20.0], [0, 0.8, 0, -24], [0, 0, 3, 7], [0, 0, 0, 1]])


def hounsfield(slices: int = 3, rows: int = 40, columns: int = 48, seed: int = 1) -> NDArray[Any]:
    """Return a CT phantom in HU, int16, indexed (i, j, k) as nibabel does."""
    stack = np.stack(list(phantom(slices, rows, columns, lungs=True, seed=[seed])))
    return np.rint(stack).astype(np.int16).transpose(2, 1, 0)


def write_nifti_file(
    path: Path,
    values: NDArray[Any] | None = None,
    *,
    affine: NDArray[Any] = RAS,
    order: str = "<",
    scaling: tuple[float, float] | None = None,
    version: int = 1,
    modality: str | None = "CT",
    extension: bytes | None = None,
    **fields: Any,
) -> Path:
    """Write stored values as they are, with a sidecar that names the modality, and return path."""
    values = hounsfield() if values is None else values
    image_class = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(values.dtype)
    image = image_class(values, affine, header=header)
    image.header["descrip"] = b"made for a test"
    for name, value in fields.items():
        image.header[name] = value
    if extension is not None:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    if scaling is not None:
        _set_scaling(path, image_class.header_class, scaling)
    if modality is not None:
        sidecar(path).write_text(json.dumps({"Modality": modality}))
    return path


def _set_scaling(path: Path, kind: Any, scaling: tuple[float, float]) -> None:
    """Set slope and intercept in the file: nibabel would compute stored values of its own."""
    is_gzip = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if is_gzip else path.read_bytes()
    size = 348 if kind is nib.Nifti1Header else 540
    header = kind(data[:size])
    header["scl_slope"], header["scl_inter"] = scaling
    data = header.binaryblock + data[size:]
    path.write_bytes(gzip.compress(data) if is_gzip else data)


def sidecar(path: Path) -> Path:
    """Return where the sidecar of a test file is."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def add_field(path: Path, **fields: Any) -> None:
    """Add to the sidecar of a test file."""
    place = sidecar(path)
    known = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps(known | fields))
