"""Volume to MetaTensor and back; the meta dictionary holds strings and numbers only.

A MetaTensor of ours is (1, columns, rows, slices), float32, modality units, with a RAS affine.
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
from salm_dicom.volume import StoredPixels, Volume

SOURCE_KEY = "salm_source"
RECORD_KEY = "salm_record"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the voxels of a MetaTensor came from: files, grid and mapping of the source.

    `is_plain` is off for colour, for ultrasound with regions and for files that hold several
    volumes: what is special about them is read from the source again.
    """

    origin: Origin
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

    @classmethod
    def of(cls, series: Series) -> Home:
        """Return the home of a series as it was read."""
        volume, pixels = series.volume, series.volume.pixels
        return cls(
            origin=series.origin,
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
        )

    def to_json(self) -> str:
        """Return all of it as one line."""
        plain = {
            "paths": [str(path) for path in self.origin.paths],
            "sha256": list(self.origin.sha256),
            "frames": list(self.origin.frames),
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
                frames=tuple(plain["frames"]),
            ),
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
        )


def to_metatensor(series: Series) -> MetaTensor:
    """Return the series as (1, columns, rows, slices) with its home in the meta dictionary."""
    values = series.volume.pixels.modality_values()
    tensor = torch.from_numpy(values).permute(2, 1, 0)[None]
    meta = {
        "filename_or_obj": str(series.origin.paths[0]),
        "series_uid": series.series_uid,
        "modality": series.volume.modality,
        "space": "RAS",
        SOURCE_KEY: Home.of(series).to_json(),
    }
    return MetaTensor(tensor, affine=torch.from_numpy(series.volume.affine), meta=meta)


def home_of(image: MetaTensor) -> Home:
    """Return where a MetaTensor came from.

    Raises
    ------
    MismatchError
        It did not come from `LoadVolume`.
    """
    text = getattr(image, "meta", {}).get(SOURCE_KEY)
    if not isinstance(text, str):
        raise MismatchError(
            "the image does not say where it came from; load it with LoadVolume and keep it a "
            "MetaTensor (no ToTensor, no EnsureType(track_meta=False)) until SaveVolume"
        )
    return Home.from_json(text)


def slices_first(image: MetaTensor) -> NDArray[np.float32]:
    """Return (1, X, Y, Z) as an array (Z, Y, X), without a copy where possible."""
    if image.ndim != 4 or image.shape[0] != 1:
        raise MismatchError(f"an image of shape {tuple(image.shape)}; (1, X, Y, Z) is needed")
    array: NDArray[np.float32] = image.as_tensor().detach().cpu().float().numpy()
    slices: NDArray[np.float32] = array[0].transpose(2, 1, 0)
    return slices


def to_volume(image: MetaTensor, home: Home) -> Volume:
    """Return the stored values of a MetaTensor on its own grid.

    Raises
    ------
    MismatchError
        Slices of the source map differently to modality values and the grid was moved, or the
        values do not lie on the source's stored values.
    """
    values = slices_first(image)
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
    )


def add_delta(image: MetaTensor, volume: Volume, delta: NDArray[np.integer]) -> None:
    """Add stored units to the image, in place, as modality values."""
    plain = image.as_tensor()[0].permute(2, 1, 0)
    for index, change in enumerate(delta):
        if change.any():
            after = volume.pixels.at(index).shifted(change[None])
            plain[index] = torch.from_numpy(after.modality_values()[0])
