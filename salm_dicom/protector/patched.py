"""Patched: what a surrogate sees of a volume of which it sees patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from salm_dicom.learning import network_whole
from salm_dicom.patches import Patches
from salm_dicom.plan import ProtectionPlan

if TYPE_CHECKING:
    from salm_dicom.protector.sampled import Sample


def patches_of(sample: Sample, plan: ProtectionPlan) -> tuple[int, ...]:
    """Return the patches of a volume that show anything; none where it is not seen in patches."""
    if not plan.patches or sample.x.ndim == 4:
        return ()
    with torch.no_grad():
        whole = None if sample.through is None else _whole(sample, plain=True)
        shape = sample.x.shape if whole is None else whole.shape
        every = range(len(Patches(tuple(shape[2:]), plan.volume_size)))
        size = plan.volume_size
        shown = (k for k in every if _image(sample, k, size, whole, plain=True).any())
        return tuple(shown) or (0,)


def patch_of(
    sample: Sample, index: int, size: tuple[int, ...], *, plain: bool
) -> tuple[Tensor, Tensor]:
    """Return what a surrogate sees of one patch, and its target."""
    whole = None if sample.through is None else _whole(sample, plain=plain)
    image = _image(sample, index, size, whole, plain=plain)
    if sample.wanted.ndim < 3:
        return image, sample.targets(slice(0, 1))
    patches = Patches(tuple(sample.x.shape[2:]), size)  # masks are on the volume's own grid
    where: Any = (..., *patches.place(index))
    return image, patches.padded(torch.from_numpy(sample.wanted[where].astype(np.int64)))


def _image(
    sample: Sample, index: int, size: tuple[int, ...], whole: Tensor | None, *, plain: bool
) -> Tensor:
    """Return one patch, cut out of `whole` or of stored values before they are mapped."""
    if whole is not None:
        patches = Patches(tuple(whole.shape[2:]), size)
        return patches.cut(whole, index % len(patches))  # a crop may follow what it shows
    patches = Patches(tuple(sample.x.shape[2:]), size)
    place = patches.place(index)
    stored = _stored(sample, place, plain=plain)
    slope, intercept = (one[:, :, place[0]] for one in (sample.slope, sample.intercept))
    return patches.padded(network_whole(stored, slope, intercept, sample.window))


def _whole(sample: Sample, *, plain: bool) -> Tensor:
    stored = _stored(sample, (), plain=plain)
    return network_whole(stored, sample.slope, sample.intercept, sample.window, sample.through)


def _stored(sample: Sample, place: tuple[slice, ...], *, plain: bool) -> Tensor:
    """Return stored values at a place, all of them for none, with the perturbation if not plain."""
    where: Any = (..., *place)
    stored = torch.from_numpy(sample.x[where].astype(np.float32))
    if plain:
        return stored
    return stored + torch.round(torch.from_numpy(sample.shadow[where].astype(np.float32)))
