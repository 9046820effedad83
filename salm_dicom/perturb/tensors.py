"""Call a method that works on tensors with arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss

if TYPE_CHECKING:
    from salm_dicom.perturb import Method


def called(
    method: Method,
    x: NDArray[Any],
    loss: Loss | None,
    foreground: NDArray[np.bool_],
    limits: Limits[NDArray[Any]],
    seed: int,
) -> NDArray[Any]:
    """Return the method's shadow, shape of x; its random numbers come from `seed` alone."""
    rng = torch.Generator().manual_seed(seed)
    tensors = limits.with_budget(torch.from_numpy(limits.budget))
    # methods number voxels row by row, whatever their order in memory
    stored = torch.from_numpy(np.ascontiguousarray(x))
    shadow: torch.Tensor = method(stored, loss, torch.from_numpy(foreground), tensors, rng)
    return shadow.numpy(force=True)
