"""SaveVolume: write a protected volume as what its source is, DICOM instances or a NIfTI file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from numpy.typing import NDArray

from salm_dicom.dicom.derive import PUBLIC_SITE_KEY, Derivation
from salm_dicom.dicom.series import OnSlice, write_series
from salm_dicom.errors import MismatchError
from salm_dicom.grid import align
from salm_dicom.nifti.series import NiftiOrigin, write_nifti
from salm_dicom.record import ProtectionRecord
from salm_dicom.transforms.convert import RECORD_KEY, Home, home_of, slices_first
from salm_dicom.volume import Integers, StoredPixels


class SaveVolume(Transform):
    """Write a protected volume; the source is read again and only the pixels' change is added.

    Parameters
    ----------
    output
        Folder in which each series gets a folder of its own.
    created
        When the run began; goes into every instance.
    site_key
        Key of the new UIDs (`Derivation`).
    """

    def __init__(
        self,
        output: str | PathLike[str],
        created: datetime,
        site_key: bytes = PUBLIC_SITE_KEY,
    ) -> None:
        self.output = Path(output)
        self.created = created
        self.site_key = site_key

    def __call__(
        self, image: MetaTensor, name: str | None = None, on_slice: OnSlice = lambda *_: None
    ) -> MetaTensor:
        """Write the instances and return the image with their folder in `meta["saved_to"]`.

        Parameters
        ----------
        image
            From `SALM`; may be flipped, turned by quarters, cropped or padded since.
        name
            Folder of the series below `output`; by default the new Series Instance UID.
        on_slice
            Told the change of each DICOM instance.

        Raises
        ------
        MismatchError
            SALM was not applied, or the voxels cannot be put back exactly.
        """
        home = home_of(image)
        text = image.meta.get(RECORD_KEY)
        if not isinstance(text, str):
            raise MismatchError("the image carries no protection record; apply SALM before saving")
        derivation = Derivation(
            record=ProtectionRecord.from_json(text), created=self.created, site_key=self.site_key
        )
        folder = self.output / (name or derivation.uid("series", home.series_uid))
        values = [_at_home(image, home, frame) for frame in range(max(1, home.frames))]
        if home.frames:
            write_nifti(
                NiftiOrigin(path=home.origin.paths[0], sha256=home.origin.sha256[0]),
                lambda frame, before: before.delta_to(values[frame]),
                folder,
                derivation.record,
                modality=home.modality,
                created=self.created,
            )
        else:

            def change_of(index: int, before: StoredPixels) -> Integers:
                return before.delta_to(values[0][index : index + len(before.values)])

            write_series(home.origin, change_of, folder, derivation, on_slice)
        image.meta["saved_to"] = str(folder)
        return image


def _at_home(image: MetaTensor, home: Home, frame: int) -> NDArray[np.float32]:
    """Return a frame on the grid of its source, (slices, rows, columns); NaN outside the image."""
    return align(
        slices_first(image, home, frame).transpose(2, 1, 0),
        np.asarray(image.affine, dtype=np.float64),
        tuple(reversed(home.shape)),
        home.affine,
    ).transpose(2, 1, 0)


class SaveVolumed(MapTransform):
    """Dictionary form of `SaveVolume`."""

    def __init__(
        self,
        keys: KeysCollection,
        output: str | PathLike[str],
        created: datetime,
        site_key: bytes = PUBLIC_SITE_KEY,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.save = SaveVolume(output, created, site_key)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the volume of each key and return the data."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.save(out[key])
        return out
