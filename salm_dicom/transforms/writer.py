"""VolumeWriter: NIfTI of any kind, and protected DICOM series, for MONAI's SaveImage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.image_writer import ImageWriter, resolve_writer
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms.spatial.array import SpatialResample
from monai.utils.type_conversion import convert_to_tensor, get_equivalent_dtype
from numpy.typing import DTypeLike, NDArray

from salm_dicom.dicom.derive import PUBLIC_SITE_KEY
from salm_dicom.errors import MismatchError, PlanError
from salm_dicom.nifti.general import save_any
from salm_dicom.nifti.image import is_nifti
from salm_dicom.transforms.convert import home_of
from salm_dicom.transforms.save import SaveVolume

Image = torch.Tensor | NDArray[Any]
SERIES_SUFFIX = ".dcm"


class VolumeWriter(ImageWriter):
    """Writes images for `SaveImage(writer=VolumeWriter)`; the extension says what.

    `.nii`, `.nii.gz`: the values as they are, nothing of the source's header. `.dcm`: a folder of
    that name without extension, with the DICOM instances derived from the source, exactly as
    `SaveVolume` writes them; the image must come from `SALM`. A protected NIfTI file is
    `SaveVolume`'s: nothing that looks like one is written here. Any other extension is written by
    the writer that MONAI has for it.

    Parameters
    ----------
    output_dtype
        Of the values in NIfTI; None keeps theirs. DICOM keeps the source's.
    scale
        255 or 65535: values 0 to 1 become integers up to it. NIfTI only.
    created, site_key
        As of `SaveVolume`; `.dcm` needs `created`, e.g. by
        `SaveImage(...).set_options(init_kwargs={"created": ...})`.
    affine_lps_to_ras
        As of MONAI's ITKWriter: True, the affine is in RAS; False, in LPS; None, the image's
        `space` says which. NIfTI is always written in RAS.
    options
        Of the writer of another extension.
    """

    def __init__(
        self,
        output_dtype: DTypeLike = np.float32,
        scale: int | None = None,
        created: datetime | None = None,
        site_key: bytes = PUBLIC_SITE_KEY,
        affine_lps_to_ras: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if scale not in (None, 255, 65535):
            raise PlanError(f"scale is {scale}; 255, 65535 or None is needed")
        self.output_dtype = output_dtype
        self.scale = scale
        self.created = created
        self.site_key = site_key
        self.affine_lps_to_ras = affine_lps_to_ras
        self.options = options
        self.meta: Mapping[str, Any] | None = None
        self.moves: dict[str, Any] = {}
        self.image: Image | None = None
        self.affine: Any = None
        self.kept_dtype: Any = output_dtype
        self.layout: dict[str, Any] = {}
        self.channel_dim: int | Sequence[int] | None = 0

    def set_data_array(
        self,
        data_array: Image,
        channel_dim: int | Sequence[int] | None = 0,
        squeeze_end_dims: bool = True,
        **options: Any,
    ) -> None:
        """Take the image; for NIfTI its channels become the last axis.

        Parameters
        ----------
        channel_dim
            Axis or axes of the channels; None: there is none.
        squeeze_end_dims
            Drop axes of size 1 at the end.
        options
            `spatial_ndim`: keep or make so many spatial axes; 3 for NIfTI.
        """
        self.image = data_array
        self.kept_dtype = get_equivalent_dtype(data_array.dtype, np.ndarray)
        self.layout = {"squeeze_end_dims": squeeze_end_dims, **options}
        self.channel_dim = channel_dim
        plain = convert_to_tensor(data_array, track_meta=False)
        self.data_obj = self._channel_last(plain, channel_dim)

    def set_metadata(
        self, meta_dict: Mapping[str, Any] | None, resample: bool = True, **options: Any
    ) -> None:
        """Take the place of the image; with `resample`, put NIfTI on the original grid.

        Parameters
        ----------
        meta_dict
            May have `affine`, `original_affine` and `spatial_shape`.
        options
            `mode`, `padding_mode`, `align_corners` and `dtype` of MONAI's `SpatialResample`.
        """
        self.meta, self.moves = meta_dict, {"resample": resample, **options}
        original, self.affine, shape = self.get_meta_info(meta_dict)
        if not resample or self.image is None:
            return
        move = SpatialResample(
            mode=options.get("mode", "bilinear"),
            padding_mode=options.get("padding_mode", "border"),
            align_corners=options.get("align_corners", False),
            dtype=options.get("dtype", np.float64),
        )
        # Channels first, unlike ImageWriter.resample_if_needed: that takes the first two of three
        # axes, or channels after them, for all there is to resample, and mixes up the voxels.
        plain = convert_to_tensor(self.image, track_meta=False)
        axes = () if self.channel_dim is None else tuple(np.atleast_1d(self.channel_dim).tolist())
        first = torch.movedim(plain, axes, tuple(range(len(axes))))
        channels = first.shape[: len(axes)]
        flat = first.reshape(-1, *first.shape[len(axes) :])
        place = torch.as_tensor(np.eye(4) if self.affine is None else np.asarray(self.affine))
        moved: Any = move(MetaTensor(flat, affine=place), dst_affine=original, spatial_size=shape)
        self.affine = moved.affine
        back = moved.as_tensor().reshape(*channels, *moved.shape[1:])
        kept = None if self.channel_dim is None else tuple(range(len(axes)))
        self.data_obj = self._channel_last(back, kept)

    def write(self, filename: str | PathLike[str], verbose: bool = False, **_: Any) -> None:
        """Write the image.

        Raises
        ------
        PlanError
            `.dcm` lacks `created`, or MONAI has no writer for the extension.
        MismatchError
            The image did not come from SALM, or cannot be written exactly.
        """
        path = Path(filename)
        if self.image is None:
            raise MismatchError("there is no image yet; call set_data_array before write")
        if is_nifti(path):
            super().write(filename, verbose=verbose)
            save_any(path, self._values(), self._affine())
        elif path.suffix.lower() == SERIES_SUFFIX:
            super().write(filename, verbose=verbose)
            self._write_series(path)
        else:
            self._hand_over(path, verbose)

    def _channel_last(self, values: torch.Tensor, channel_dim: Any) -> Any:
        squeeze, axes = self.layout["squeeze_end_dims"], self.layout.get("spatial_ndim", 3)
        return self.convert_to_channel_last(values, channel_dim, squeeze, axes)

    def _hand_over(self, path: Path, verbose: bool) -> None:
        """Let the first writer that MONAI has for the extension write the image."""
        turned = self.affine_lps_to_ras
        options = self.options | ({} if turned is None else {"affine_lps_to_ras": turned})
        for kind in resolve_writer(path.suffix):
            writer = kind(output_dtype=self.output_dtype, scale=self.scale, **options)
            if not isinstance(writer, VolumeWriter):
                writer.set_data_array(self.image, channel_dim=self.channel_dim, **self.layout)
                writer.set_metadata(self.meta, **self.moves)
                writer.write(path, verbose=verbose)
                return
        raise PlanError(f"MONAI has no writer for {path.suffix}")

    def _write_series(self, path: Path) -> None:
        if self.created is None:
            raise PlanError("DICOM needs the time of the run: give VolumeWriter(created=...)")
        if not isinstance(self.image, MetaTensor):
            raise MismatchError("DICOM is only derived from a source: SALM's MetaTensor is needed")
        if home_of(self.image).frames:
            raise MismatchError("the source is NIfTI; protected NIfTI is written by SaveVolume")
        SaveVolume(path.parent, self.created, self.site_key)(self.image, path.stem)

    def _values(self) -> NDArray[Any]:
        """Return what NIfTI is to hold, (i, j, k, ...)."""
        values = self.create_backend_obj(self.data_obj)
        if self.scale is not None:
            values = np.rint(np.clip(values, 0.0, 1.0) * self.scale)
        wanted = self.kept_dtype if self.output_dtype is None else self.output_dtype
        kind: Any = get_equivalent_dtype(wanted, np.ndarray)
        return np.asarray(values).astype(kind, copy=False)

    def _affine(self) -> NDArray[np.float64]:
        affine = np.eye(4) if self.affine is None else np.asarray(self.affine, dtype=np.float64)
        placed = np.asarray(to_affine_nd(3, affine), dtype=np.float64)
        in_ras = self.affine_lps_to_ras
        if in_ras is None:
            in_ras = (self.meta or {}).get("space", "RAS") != "LPS"
        return placed if in_ras else np.diag([-1.0, -1.0, 1.0, 1.0]) @ placed
