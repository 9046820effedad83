"""SALM: protect a loaded volume inside a MONAI pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from torch import Tensor

from salm_dicom.protector import Mask, Protector, loaded
from salm_dicom.record import widest
from salm_dicom.transforms.convert import RECORD_KEY, add_delta, home_of, to_volume
from salm_dicom.transforms.mask import mask_on


class SALM(Transform):
    """Add the protector's perturbation to a volume from `LoadVolume`.

    Deterministic, so it is no Randomizable: caches keep it and workers need no seeds. Gradients
    are switched on for itself under `no_grad` and `inference_mode`. It pickles as a path when the
    protector was given as one; networks are built once for each process.

    Parameters
    ----------
    protector
        A `Protector`, or the folder it was saved to.
    mask_classes
        Names of the values of label maps, as the protector knows them (`{1: "Liver"}`); a value
        without is `label N`.
    """

    def __init__(
        self,
        protector: Protector | str | PathLike[str],
        mask_classes: Mapping[int, str] | None = None,
    ) -> None:
        self.protector = protector if isinstance(protector, Protector) else Path(protector)
        self.mask_classes = dict(mask_classes or {})

    def __call__(
        self, image: MetaTensor, label: str | None = None, mask: Tensor | None = None
    ) -> MetaTensor:
        """Return a protected copy; its meta carries the record as JSON.

        Parameters
        ----------
        image
            (frames, X, Y, Z), modality units, from `LoadVolume`; may be flipped, turned or cropped.
        label
            The series' label, for methods with a surrogate.
        mask
            Its label map, for protectors of segmentation, see `mask_on`.
        """
        home = home_of(image)
        protector, records = loaded(self.protector), []
        out: MetaTensor = image.clone()
        for frame in range(max(1, home.frames)):
            volume = to_volume(image, home, frame)
            target: str | Mask | None = label
            if protector.plan.needs_masks:
                target = None if mask is None else mask_on(mask, image, self.mask_classes)
            found = protector.apply(volume, series_uid=home.series_uid, label=target)
            add_delta(out, volume, found.delta, frame)
            records.append(found.record)
        out.meta[RECORD_KEY] = widest(records).to_json()
        return out


class SALMd(MapTransform):
    """Dictionary form of `SALM`.

    Parameters
    ----------
    keys
        Volumes to protect.
    protector
        A `Protector`, or the folder it was saved to.
    label_key
        Where the label is; not needed by methods without a surrogate.
    mask_key
        Where the label map is, (1, X, Y, Z), of all `keys`; needed by protectors of segmentation.
    mask_classes
        See `SALM`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        protector: Protector | str | PathLike[str],
        label_key: str = "label",
        allow_missing_keys: bool = False,
        mask_key: str | None = None,
        mask_classes: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.salm = SALM(protector, mask_classes)
        self.label_key = label_key
        self.mask_key = mask_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume of each key protected."""
        out = dict(data)
        label = out.get(self.label_key)
        mask = None if self.mask_key is None else out.get(self.mask_key)
        for key in self.key_iterator(out):
            out[key] = self.salm(out[key], None if label is None else str(label), mask)
        return out
