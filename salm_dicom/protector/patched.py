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


def count_of(sample: Sample, plan: ProtectionPlan) -> int:
    """Return how many patches a volume has; 0 where it is seen as a whole, or in slices."""
    if not plan.patches or sample.x.ndim == 4:
        return 0
    shape = sample.x.shape[2:]
    if sample.through is not None:
        with torch.no_grad():
            shape = _whole(sample, plain=True).shape[2:]
    return len(Patches(tuple(shape), plan.volume_size))


def patch_of(
    sample: Sample, index: int, size: tuple[int, ...], *, plain: bool
) -> tuple[Tensor, Tensor]:
    """Return what a surrogate sees of one patch, and its target."""
    if sample.through is not None:  # no masks then
        whole = _whole(sample, plain=plain)
        patches = Patches(tuple(whole.shape[2:]), size)
        return patches.cut(whole, index % len(patches)), sample.targets(slice(0, 1))
    patches = Patches(tuple(sample.x.shape[2:]), size)
    place = patches.place(index)
    stored = _stored(sample, place, plain=plain)
    slope, intercept = (one[:, :, place[0]] for one in (sample.slope, sample.intercept))
    image = patches.padded(network_whole(stored, slope, intercept, sample.window))
    if sample.wanted.ndim < 3:
        return image, sample.targets(slice(0, 1))
    where: Any = (..., *place)
    return image, patches.padded(torch.from_numpy(sample.wanted[where].astype(np.int64)))


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
