"""Preprocessing: the user's own MONAI transforms, through which surrogates see an image.

Written as in a MONAI bundle: `[{"_target_": "Spacing", "pixdim": [1.5, 1.5, 2.0]}, ...]`. Gradients
come back through them to the stored values, so nothing is ever resampled back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import PlanError

if TYPE_CHECKING:  # a plan is made without torch
    from monai.transforms.transform import Transform
    from torch import Tensor

_NAMED, _OF_MONAI = "_target_", "monai.transforms."
# What only moves, cuts or maps voxels; nothing that reads, writes or calls what it is given.
_ALLOWED = tuple(f"{_OF_MONAI}{part}.array" for part in ("spatial", "intensity", "croppad"))
_EXAMPLE = '[{"_target_": "Spacing", "pixdim": [1.5, 1.5, 2.0]}]'


def check_preprocessing(text: str) -> None:
    """Raise `PlanError` where a text is no list of transforms; whether they exist is not asked."""
    _described(text)


def check_transforms(text: str) -> None:
    """Raise `PlanError` where a transform is not known or not taken; none is fine."""
    if text:
        _transforms(text)


def _described(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the arguments of each transform."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise PlanError(f"preprocessing is no JSON; a list such as {_EXAMPLE} is needed") from error
    if isinstance(found, dict) and str(found.get(_NAMED)).removeprefix(_OF_MONAI) == "Compose":
        found = found.get("transforms")
    if not isinstance(found, list) or not found:
        raise PlanError(f"preprocessing is no list of transforms; such as {_EXAMPLE} is needed")
    steps = []
    for one in found:
        if not isinstance(one, dict) or not isinstance(one.get(_NAMED), str):
            raise PlanError(f"a transform of preprocessing has no {_NAMED}; see {_EXAMPLE}")
        given = {key: value for key, value in one.items() if key != _NAMED}
        steps.append((one[_NAMED].removeprefix(_OF_MONAI), given))
    return steps


@lru_cache(maxsize=8)
def _transforms(text: str) -> tuple[tuple[str, Transform], ...]:
    """Return each transform with its name.

    Raises
    ------
    PlanError
        One is unknown, random, no transform of single images, or has other arguments.
    """
    import monai.transforms
    from monai.transforms.traits import RandomizableTrait
    from monai.transforms.transform import MapTransform

    found: list[tuple[str, Transform]] = []
    for name, given in _described(text):
        kind = getattr(monai.transforms, name, None)
        if not isinstance(kind, type) or kind.__module__ not in _ALLOWED:
            dictionary = isinstance(kind, type) and issubclass(kind, MapTransform)
            hint = f"; {name[:-1]} takes an image as it is" if dictionary else ""
            raise PlanError(
                f"preprocessing names {name!r}; spatial, intensity and cropping transforms of "
                f"monai.transforms for single images are known, not those of dictionaries{hint}"
            )
        if issubclass(kind, RandomizableTrait):
            raise PlanError(f"preprocessing {name} is random; leave it out, or use eot")
        try:
            made: Any = kind(**given)
            found.append((name, made))
        except Exception as error:
            raise PlanError(
                f"preprocessing {name} does not take {sorted(given)} ({type(error).__name__})"
            ) from error
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Transforms for the images of one grid.

    Parameters
    ----------
    text
        Of `ProtectionPlan.preprocessing`.
    affine
        From (column, row, slice) to RAS mm, (4, 4).
    """

    text: str
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, text: str, affine: NDArray[np.float64]) -> Preprocessing | None:
        """Return it; None where the plan has none.

        Raises
        ------
        PlanError
            A transform is not known, see `_transforms`.
        """
        check_transforms(text)
        return cls(text, affine) if text else None

    def __call__(self, values: Tensor) -> Tensor:
        """Return what a surrogate sees, (1, 1, *spatial), of modality values, in any size.

        Parameters
        ----------
        values
            (1, 1, rows, columns), or with slices before rows.

        Raises
        ------
        PlanError
            A transform fails on this image, gives no gradient, or makes a volume of a slice.
        """
        import torch
        from monai.data.meta_tensor import MetaTensor

        is_slice = values.ndim == 4
        upright = values[0] if values.ndim == 5 else values
        x: Any = MetaTensor(upright.permute(0, 3, 2, 1), affine=torch.from_numpy(self.affine))
        for name, transform in _transforms(self.text):
            try:
                x = transform(x)
            except Exception as error:
                raise PlanError(
                    f"preprocessing {name} fails on an image of {tuple(x.shape[1:])} voxels "
                    f"({type(error).__name__})"
                ) from error
            if not isinstance(x, MetaTensor) or x.ndim != 4 or len(x) != 1:
                raise PlanError(f"preprocessing {name} does not give one image; leave it out")
            if values.requires_grad and not x.requires_grad:
                raise PlanError(
                    f"preprocessing {name} gives no gradient, so that no perturbation can be found "
                    "through it; leave it out, or choose another of its modes"
                )
        found: Tensor = x.as_tensor().to(torch.float32).permute(0, 3, 2, 1)
        if not is_slice:
            return found[None]
        sides = [side for side in found.shape[1:] if side > 1]
        if len(sides) > 2:
            raise PlanError("preprocessing makes a volume of a slice; use extent volume")
        return found.reshape(1, 1, *(sides if len(sides) == 2 else found.shape[2:]))
