"""LoadVolume: one DICOM series to a MetaTensor in modality units, nothing resampled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform

from salm_dicom.dicom.scan import image_header
from salm_dicom.dicom.series import files_of, read_series
from salm_dicom.errors import UnevenSpacing
from salm_dicom.transforms.convert import to_metatensor

PathOrPaths = str | PathLike[str] | Sequence[str | PathLike[str]]


class LoadVolume(Transform):
    """Load one series as (1, columns, rows, slices), float32, modality units, RAS affine.

    Parameters
    ----------
    allow_irregular
        Load slices that are no evenly spaced parallel stack (gantry tilt, gaps) as a stack
        whose affine holds for the first slice only. Only SALM of slice extent accepts it.
    """

    def __init__(self, allow_irregular: bool = False) -> None:
        self.allow_irregular = allow_irregular

    def __call__(self, source: PathOrPaths) -> MetaTensor:
        """Return the volume of a series folder, of one file, or of a list of files.

        Raises
        ------
        InputError
            A file cannot be protected exactly; the code says why.
        UnevenSpacing
            The slices are no regular volume and `allow_irregular` is off.
        """
        series = read_series(_paths(source))
        if series.volume.irregular and not self.allow_irregular:
            raise UnevenSpacing((), series.volume.irregular)
        return to_metatensor(series)


class LoadVolumed(MapTransform):
    """Dictionary form of `LoadVolume`."""

    def __init__(
        self,
        keys: KeysCollection,
        allow_irregular: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadVolume(allow_irregular)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each key's path replaced by its volume."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key])
        return out


def _paths(source: PathOrPaths) -> list[Path]:
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        return files_of(path) if path.is_dir() else [image_header(path).path]
    return [image_header(Path(path)).path for path in source]
