"""SALM: protect a loaded volume inside a MONAI pipeline."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform

from salm_dicom.protector import Protector, loaded
from salm_dicom.record import widest
from salm_dicom.transforms.convert import RECORD_KEY, add_delta, home_of, to_volume


class SALM(Transform):
    """Add the protector's perturbation to a volume from `LoadVolume`.

    Deterministic, so it is no Randomizable: caches keep it and workers need no seeds. Gradients
    are switched on for itself under `no_grad` and `inference_mode`. It pickles as a path when the
    protector was given as one; networks are built once for each process.

    Parameters
    ----------
    protector
        A `Protector`, or the folder it was saved to.
    """

    def __init__(self, protector: Protector | str | PathLike[str]) -> None:
        self.protector = protector if isinstance(protector, Protector) else Path(protector)

    def __call__(self, image: MetaTensor, label: str | None = None) -> MetaTensor:
        """Return a protected copy; its meta carries the record as JSON.

        Parameters
        ----------
        image
            (frames, X, Y, Z), modality units, from `LoadVolume`; may be flipped, turned or cropped.
        label
            The series' label, for methods with a surrogate.
        """
        home = home_of(image)
        protector, records = loaded(self.protector), []
        out: MetaTensor = image.clone()
        for frame in range(max(1, home.frames)):
            volume = to_volume(image, home, frame)
            found = protector.apply(volume, series_uid=home.series_uid, label=label)
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
    """

    def __init__(
        self,
        keys: KeysCollection,
        protector: Protector | str | PathLike[str],
        label_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.salm = SALM(protector)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the volume of each key protected."""
        out = dict(data)
        label = out.get(self.label_key)
        for key in self.key_iterator(out):
            out[key] = self.salm(out[key], None if label is None else str(label))
        return out
