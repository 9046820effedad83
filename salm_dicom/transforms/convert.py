"""Volume to MetaTensor and back; the meta dictionary holds strings and numbers only.

A MetaTensor of ours is (frames, columns, rows, slices), float32, modality units, with a RAS
affine; only NIfTI over time has more than one frame.
What the writer needs to find the source again travels as one JSON string, because lists and None
break the collation of batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from salm_dicom.dicom.series import Origin, Series, read_series
from salm_dicom.errors import MismatchError
from salm_dicom.nifti.series import NiftiSeries
from salm_dicom.volume import StoredPixels, Volume

SOURCE_KEY = "salm_source"
RECORD_KEY = "salm_record"
# Why an image that was loaded cannot be protected, if so.
REFUSED_KEY = "salm_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the voxels of a MetaTensor came from: files, grid and mapping of the source.

    `frames` is 0 for a DICOM series, else how many volumes a NIfTI file has. `is_plain` is off for
    colour, for ultrasound with regions and for DICOM files that hold several volumes: what is
    special about them is read from the source again.
    """

    origin: Origin
    frames: int
    series_uid: str
    modality: str
    photometric: str
    irregular: str
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    slope: NDArray[np.float64]
    intercept: NDArray[np.float64]
    kind: str
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None
    is_plain: bool
    quantity: str

    @classmethod
    def of(cls, series: Series | NiftiSeries) -> Home:
        """Return the home of a series as it was read."""
        volumes = volumes_of(series)
        volume, pixels = volumes[0], volumes[0].pixels
        return cls(
            origin=origin_of(series),
            frames=len(volumes) if isinstance(series, NiftiSeries) else 0,
            series_uid=series.series_uid,
            modality=volume.modality,
            photometric=volume.photometric,
            irregular=volume.irregular,
            shape=pixels.values.shape,
            affine=volume.affine,
            slope=pixels.slope,
            intercept=pixels.intercept,
            kind=pixels.values.dtype.str,
            bits_stored=pixels.bits_stored,
            signed=pixels.signed,
            padding=pixels.padding,
            is_plain=pixels.room is None and not volume.parts,
            quantity=volume.quantity,
        )

    def to_json(self) -> str:
        """Return all of it as one line."""
        plain = {
            "paths": [str(path) for path in self.origin.paths],
            "sha256": list(self.origin.sha256),
            "origin_frames": list(self.origin.frames),
            "frames": self.frames,
            "series_uid": self.series_uid,
            "modality": self.modality,
            "photometric": self.photometric,
            "irregular": self.irregular,
            "shape": list(self.shape),
            "affine": self.affine.tolist(),
            "slope": self.slope.tolist(),
            "intercept": self.intercept.tolist(),
            "kind": self.kind,
            "bits_stored": self.bits_stored,
            "signed": self.signed,
            "padding": self.padding,
            "is_plain": self.is_plain,
            "quantity": self.quantity,
        }
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> Home:
        """Return what `to_json` wrote."""
        plain = json.loads(text)
        rows, columns = plain["shape"][1:]
        return cls(
            origin=Origin(
                paths=tuple(Path(path) for path in plain["paths"]),
                sha256=tuple(plain["sha256"]),
                frames=tuple(plain["origin_frames"]),
            ),
            frames=plain["frames"],
            series_uid=plain["series_uid"],
            modality=plain["modality"],
            photometric=plain["photometric"],
            irregular=plain["irregular"],
            shape=(plain["shape"][0], rows, columns),
            affine=np.array(plain["affine"]),
            slope=np.array(plain["slope"]),
            intercept=np.array(plain["intercept"]),
            kind=plain["kind"],
            bits_stored=plain["bits_stored"],
            signed=plain["signed"],
            padding=None if plain["padding"] is None else tuple(plain["padding"]),
            is_plain=plain["is_plain"],
            quantity=plain["quantity"],
        )


def volumes_of(series: Series | NiftiSeries) -> tuple[Volume, ...]:
    """Return the volume of a DICOM series, or those of a NIfTI file."""
    return series.volumes if isinstance(series, NiftiSeries) else (series.volume,)


def origin_of(series: Series | NiftiSeries) -> Origin:
    """Return the files a series came from."""
    if isinstance(series, NiftiSeries):
        return Origin(paths=(series.origin.path,), sha256=(series.origin.sha256,))
    return series.origin


def to_metatensor(series: Series | NiftiSeries) -> MetaTensor:
    """Return a series as (frames, columns, rows, slices) with its home in the meta dictionary."""
    volumes = volumes_of(series)
    values = np.stack([volume.pixels.modality_values() for volume in volumes])
    tensor = torch.from_numpy(values).permute(0, 3, 2, 1)
    meta = {
        "filename_or_obj": str(origin_of(series).paths[0]),
        "series_uid": series.series_uid,
        "modality": volumes[0].modality,
        "space": "RAS",
        SOURCE_KEY: Home.of(series).to_json(),
    }
    return MetaTensor(tensor, affine=torch.from_numpy(volumes[0].affine), meta=meta)


def home_of(image: MetaTensor) -> Home:
    """Return where a MetaTensor came from.

    Raises
    ------
    MismatchError
        It did not come from `LoadVolume` or `VolumeReader`, or cannot be protected.
    """
    meta = getattr(image, "meta", {})
    text = meta.get(SOURCE_KEY)
    if not isinstance(text, str) and isinstance(meta.get(REFUSED_KEY), str):
        raise MismatchError(f"the image was loaded, but cannot be protected: {meta[REFUSED_KEY]}")
    if not isinstance(text, str):
        raise MismatchError(
            "the image does not say where it came from; load it with LoadVolume and keep it a "
            "MetaTensor (no ToTensor, no EnsureType(track_meta=False)) until SaveVolume"
        )
    return Home.from_json(text)


def slices_first(image: MetaTensor, home: Home, frame: int = 0) -> NDArray[np.float32]:
    """Return a frame of (frames, X, Y, Z) as an array (Z, Y, X), without a copy if possible."""
    frames = max(1, home.frames)
    if image.ndim != 4 or image.shape[0] != frames:
        raise MismatchError(
            f"an image of shape {tuple(image.shape)}; ({frames}, X, Y, Z) is needed"
        )
    array: NDArray[np.float32] = image.as_tensor().detach().cpu().float().numpy()
    slices: NDArray[np.float32] = array[frame].transpose(2, 1, 0)
    return slices


def to_volume(image: MetaTensor, home: Home, frame: int = 0) -> Volume:
    """Return the stored values of a frame of a MetaTensor on its own grid.

    Raises
    ------
    MismatchError
        Slices of the source map differently to modality values and the grid was moved, or the
        values do not lie on the source's stored values.
    """
    values = slices_first(image, home, frame)
    moved = values.shape != home.shape or not np.allclose(image.affine, home.affine, atol=1e-4)
    if moved and not home.is_plain:
        raise MismatchError(
            "the source is colour, ultrasound with regions, or holds several volumes; apply SALM "
            "directly after LoadVolume, before Orientation, Flip or Crop"
        )
    slope, intercept = home.slope, home.intercept
    uniform = (slope == slope[0]).all() and (intercept == intercept[0]).all()
    if uniform:
        slope = np.full(len(values), slope[0])
        intercept = np.full(len(values), intercept[0])
    elif moved:
        raise MismatchError(
            "slices of this series map differently to modality values; apply SALM directly after "
            "LoadVolume, before Orientation, Flip or Crop"
        )
    kind = np.dtype(home.kind)
    blank = StoredPixels(
        values=np.zeros(values.shape, dtype=kind),
        slope=slope,
        intercept=intercept,
        bits_stored=home.bits_stored,
        signed=home.signed,
        padding=home.padding,
    )
    stored = np.empty(values.shape, dtype=kind)
    for index in range(len(values)):
        stored[index] = blank.at(index).delta_to(values[index : index + 1])[0]
    source = None if home.is_plain else read_series(home.origin.paths).volume
    return Volume(
        pixels=replace(blank, values=stored, room=source.pixels.room if source else None),
        affine=np.asarray(image.affine, dtype=np.float64),
        modality=home.modality,
        photometric=home.photometric,
        irregular=home.irregular,
        parts=source.parts if source else (),
        quantity=home.quantity,
    )


def add_delta(
    image: MetaTensor, volume: Volume, delta: NDArray[np.integer], frame: int = 0
) -> None:
    """Add stored units to a frame of the image, in place, as modality values."""
    plain = image.as_tensor()[frame].permute(2, 1, 0)
    for index, change in enumerate(delta):
        if change.any():
            after = volume.pixels.at(index).shifted(change[None])
            plain[index] = torch.from_numpy(after.modality_values()[0])
