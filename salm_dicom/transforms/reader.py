"""VolumeReader: DICOM series and NIfTI files for MONAI's LoadImage, or a code that says why not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.data.utils import is_no_channel
from numpy.typing import NDArray

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.peek import read_header
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import Series, files_of, read_series
from salm_dicom.errors import (
    GeometryError,
    InputError,
    MismatchError,
    NotDicom,
    PlanError,
    Quantitative,
    Unreadable,
)
from salm_dicom.nifti.general import load_any
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.series import NiftiSeries, read_nifti
from salm_dicom.quantity import check_allowed
from salm_dicom.transforms.convert import REFUSED_KEY, SOURCE_KEY, Home, volumes_of
from salm_dicom.transforms.load import PathOrPaths, check_regular

Array = NDArray[Any]
Meta = dict[str, Any]
# Options of other readers that would turn the image but not its affine, or its axes but not ours;
# with the value that changes nothing.
_FIXED = {"reverse_indexing": False, "swap_ij": True}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Found:
    """What one image is to be made of: a NIfTI file, a DICOM file, folder, or files of a series."""

    paths: tuple[Path, ...]


class VolumeReader(ImageReader):
    """Reads what `LoadVolume` reads, and NIfTI of any kind, for `LoadImage(reader=VolumeReader)`.

    DICOM: (columns, rows, slices), modality units, slices in spatial order. NIfTI: as nibabel
    gives it. Images that can be protected carry their home, so that SALM and SaveVolume follow;
    the meta of others says why not. Nothing is kept between calls: threads may share a reader.

    Parameters
    ----------
    channel_dim
        Axis of the channels, `"no_channel"`, or None: the last one of NIfTI over three.
    as_closest_canonical
        Put NIfTI axes closest to RAS.
    squeeze_non_spatial_dims
        Drop NIfTI axes of size 1 beyond the third.
    allow_irregular, modality, allow_quantitative
        As of `LoadVolume`.
    series_name
        Series Instance UID to take from a folder that holds several.
    affine_lps_to_ras
        Off: the affine is in LPS and `space` says so; such an image cannot be protected.
    fname_regex
        Take only the files of a folder whose path matches from its start.
    options
        Of other readers (`mmap`, `pixel_type`): `LoadImage` hands the same to all. No effect, but
        `get_data` refuses those that would turn the image round (`reverse_indexing`, `swap_ij`).

    Notes
    -----
    `LoadImage` takes another reader in silence when `read` raises, so `read` raises only for what
    is neither DICOM nor NIfTI; a file that cannot be read right is refused by `get_data`.
    """

    def __init__(
        self,
        channel_dim: str | int | None = None,
        as_closest_canonical: bool = False,
        squeeze_non_spatial_dims: bool = False,
        allow_irregular: bool = False,
        modality: str | None = None,
        allow_quantitative: bool = False,
        series_name: str = "",
        affine_lps_to_ras: bool = True,
        fname_regex: str | None = "",
        **options: Any,
    ) -> None:
        super().__init__()
        self.channel_dim = float("nan") if channel_dim == "no_channel" else channel_dim
        self.as_closest_canonical = as_closest_canonical
        self.squeeze_non_spatial_dims = squeeze_non_spatial_dims
        self.allow_irregular = allow_irregular
        self.modality = modality
        self.allow_quantitative = allow_quantitative
        self.series_name = series_name
        self.affine_lps_to_ras = affine_lps_to_ras
        self.fname_regex = fname_regex or ""
        self.options = options

    def verify_suffix(self, filename: PathOrPaths) -> bool:
        """Return whether every path is a folder, DICOM or named as NIfTI."""
        return all(path.is_dir() or is_nifti(path) or _is_dicom(path) for path in _paths(filename))

    def read(self, data: PathOrPaths, **_: Any) -> list[Found]:
        """Return what the images are to be made of.

        DICOM files of a list make one image when they are of one series; anything else in a list
        is an image for itself, and `get_data` puts them together as channels.

        Raises
        ------
        NotDicom, Unreadable
            A path is not for this reader; `LoadImage` then asks others.
        """
        paths = _paths(data)
        for path in paths:
            if not path.exists():
                raise Unreadable("there is no such file or folder")
            if not (path.is_dir() or is_nifti(path) or _is_dicom(path)):
                raise NotDicom("neither DICOM nor NIfTI")
        if len(paths) > 1 and not any(path.is_dir() or is_nifti(path) for path in paths):
            return [Found(tuple(paths))] if _is_one_series(paths) else _each(paths)
        return _each(paths)

    def get_data(self, img: Found | Sequence[Found]) -> tuple[Array, Meta]:
        """Return the values and a meta dictionary of strings and numbers.

        Raises
        ------
        InputError
            A file cannot be read right; its code says why.
        MismatchError
            Several images differ in shape or place.
        PlanError
            An option of other readers would turn the image round.
        """
        # Not when made: LoadImage makes its default readers with the options of the one asked for.
        for name, value in _FIXED.items():
            if self.options.get(name, value) != value:
                raise PlanError(f"VolumeReader has no {name}={not value}; its axes fit its affine")
        found = [img] if isinstance(img, Found) else list(img)
        images = [self._image(one) for one in found]
        values, meta = images[0]
        if len(images) == 1:
            return values, meta
        for _, other in images[1:]:
            for key in ("affine", "spatial_shape"):
                if meta[key].shape != other[key].shape or not np.allclose(meta[key], other[key]):
                    raise MismatchError(f"the images differ in {key}; channels need one grid")
        del meta[SOURCE_KEY if SOURCE_KEY in meta else REFUSED_KEY]
        meta[REFUSED_KEY] = "several images became channels of one; load each for itself"
        channel = meta["original_channel_dim"]
        if is_no_channel(channel):
            meta["original_channel_dim"] = 0
            return np.stack([one for one, _ in images]), meta
        return np.concatenate([one for one, _ in images], axis=int(channel)), meta

    def _image(self, found: Found) -> tuple[Array, Meta]:
        if len(found.paths) == 1 and is_nifti(found.paths[0]):
            return self._nifti(found.paths[0])
        series = read_series(self._files(found.paths))
        check_regular(series, self.allow_irregular)
        values = series.volume.pixels.modality_values().transpose(2, 1, 0)
        meta: Meta = {
            "affine": series.volume.affine.copy(),
            "original_affine": series.volume.affine.copy(),
            "filename_or_obj": str(found.paths[0]),
            "series_uid": series.series_uid,
        }
        meta |= self._home(series)
        return values, self._placed(meta) | self._shape(values)

    def _files(self, paths: Sequence[Path]) -> Sequence[Path]:
        """Return the files of a series: those given, or those of a folder."""
        if not paths[0].is_dir():
            return paths
        if self.series_name:
            files = self._named(paths[0])
        elif self.fname_regex:
            files = sorted(path for path in paths[0].rglob("*") if path.is_file())
        else:
            return files_of(paths[0], allow_quantitative=True)
        kept = [path for path in files if re.match(self.fname_regex, str(path))]
        if not kept:
            raise GeometryError("fname_regex matches no file of the folder")
        return [image_header(path, allow_quantitative=True).path for path in kept]

    def _named(self, folder: Path) -> Sequence[Path]:
        for series in scan(folder, allow_quantitative=True).series:
            if series.headers[0].series_uid == self.series_name:
                return series.paths
        raise GeometryError("the folder has no series of this name; `salm-dicom scan` lists them")

    def _nifti(self, path: Path) -> tuple[Array, Meta]:
        loaded = load_any(path, canonical=self.as_closest_canonical)
        values = loaded.values
        meta: Meta = dict(loaded.numbers)
        if "pixdim" in meta:
            meta["original_pixdim"] = meta["pixdim"].copy()
        meta |= {
            "filename_or_obj": str(path),
            "affine": loaded.affine,
            "original_affine": loaded.original_affine,
            "as_closest_canonical": self.as_closest_canonical,
        }
        if self.squeeze_non_spatial_dims:
            keep = [n for n, size in enumerate(values.shape) if n < 3 or size > 1]
            values = values.reshape([values.shape[n] for n in keep])
        try:
            series = read_nifti(path, self.modality, allow_quantitative=True)
            meta |= self._home(series) | {"series_uid": series.series_uid}
        except InputError as error:
            meta[REFUSED_KEY] = f"{error.code}: {error}"
        return values, self._placed(meta) | self._shape(values)

    def _home(self, series: Series | NiftiSeries) -> Meta:
        """Return where an image came from, or why it cannot be protected: it is measurements."""
        try:
            check_allowed(volumes_of(series)[0].quantity, self.allow_quantitative)
        except Quantitative as error:
            return {REFUSED_KEY: f"{error.code}: {error}"}
        return {SOURCE_KEY: Home.of(series).to_json()}

    def _placed(self, meta: Meta) -> Meta:
        """Return the meta with its affines in the space that was asked for."""
        if self.affine_lps_to_ras:
            return meta | {"space": "RAS"}
        turned = {key: _LPS_TO_RAS @ meta[key] for key in ("affine", "original_affine")}
        kept = {key: value for key, value in meta.items() if key != SOURCE_KEY}
        why = {REFUSED_KEY: "its affine is in LPS; load it with affine_lps_to_ras=True"}
        return why | kept | turned | {"space": "LPS"}

    def _shape(self, values: Array) -> Meta:
        """Return the meta entries that say which axes are spatial."""
        size = list(values.shape)
        channel = self.channel_dim
        if not is_no_channel(channel):
            size.pop(int(channel))  # type: ignore[arg-type]
        spatial = np.asarray(size[:3])
        if channel is None:
            channel = float("nan") if values.ndim == len(spatial) else -1
        return {"spatial_shape": spatial, "original_channel_dim": channel}


def _paths(data: PathOrPaths) -> list[Path]:
    several = [data] if isinstance(data, (str, PathLike)) else data
    return [Path(path) for path in several]


def _each(paths: Sequence[Path]) -> list[Found]:
    return [Found((path,)) for path in paths]


def _is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, though perhaps a broken one."""
    if not path.exists():
        return False
    try:
        read_header(path)
    except NotDicom:
        return False
    except InputError:
        return True
    return True


def _is_one_series(paths: Sequence[Path]) -> bool:
    """Return whether DICOM files are different instances of one series; broken ones count as it."""
    headers = []
    for path in paths:
        try:
            headers.append(image_header(path, allow_quantitative=True))
        except InputError:
            return True
    instances = {header.sop_uid for header in headers}
    return len(instances) == len(paths) and len({header.series_uid for header in headers}) == 1
