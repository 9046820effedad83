"""LoadVolume: one DICOM series or NIfTI file to a MetaTensor in modality units, never resampled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.series import Series, files_of, read_series
from salm_dicom.errors import UnevenSpacing
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.series import NiftiSeries, read_nifti
from salm_dicom.transforms.convert import to_metatensor, volumes_of

PathOrPaths = str | PathLike[str] | Sequence[str | PathLike[str]]


class LoadVolume(Transform):
    """Load one series as (1, columns, rows, slices), float32, modality units, RAS affine.

    A NIfTI file is turned the way a DICOM series lies, which its affine says; over time it has
    a channel for each frame.

    Parameters
    ----------
    allow_irregular
        Load slices that are no evenly spaced parallel stack (gantry tilt, gaps) as a stack
        whose affine holds for the first slice only. Only SALM of slice extent accepts it.
    modality
        DICOM's *Modality* of NIfTI files whose sidecar does not say.
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """

    def __init__(
        self,
        allow_irregular: bool = False,
        modality: str | None = None,
        allow_quantitative: bool = False,
    ) -> None:
        self.allow_irregular = allow_irregular
        self.modality = modality
        self.allow_quantitative = allow_quantitative

    def __call__(self, source: PathOrPaths) -> MetaTensor:
        """Return the volume of a series folder, of one file, or of a list of files.

        Raises
        ------
        InputError
            A file cannot be protected exactly; the code says why.
        UnevenSpacing
            The slices are no regular volume and `allow_irregular` is off.
        """
        series = read_any(source, self.modality, self.allow_quantitative)
        check_regular(series, self.allow_irregular)
        return to_metatensor(series)


class LoadVolumed(MapTransform):
    """Dictionary form of `LoadVolume`."""

    def __init__(
        self,
        keys: KeysCollection,
        allow_irregular: bool = False,
        allow_missing_keys: bool = False,
        modality: str | None = None,
        allow_quantitative: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadVolume(allow_irregular, modality, allow_quantitative)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each key's path replaced by its volume."""
        out = dict(data)
        for key in self.key_iterator(out):
            out[key] = self.load(out[key])
        return out


def read_any(
    source: PathOrPaths, modality: str | None, allow: bool = False
) -> Series | NiftiSeries:
    """Return the DICOM series of a folder, file or list of files, or the series of a NIfTI file."""
    paths = [source] if isinstance(source, (str, PathLike)) else source
    places = [Path(path) for path in paths]
    if len(places) == 1 and places[0].is_dir():
        return read_series(files_of(places[0], allow_quantitative=allow))
    if len(places) == 1 and is_nifti(places[0]):
        return read_nifti(places[0], modality, allow_quantitative=allow)
    headers = [image_header(place, allow_quantitative=allow) for place in places]
    return read_series([header.path for header in headers])


def check_regular(series: Series | NiftiSeries, allow_irregular: bool) -> None:
    """Raise `UnevenSpacing` for slices that are no regular volume, unless they are allowed."""
    irregular = volumes_of(series)[0].irregular
    if irregular and not allow_irregular:
        raise UnevenSpacing((), irregular)
