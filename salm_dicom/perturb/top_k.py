"""The voxels with the highest scores, at most a share of the foreground of each sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from salm_dicom.perturb.budget import quota


def top_k(score: Tensor, foreground: Tensor, rho: float) -> Tensor:
    """Return True on the voxels with the highest scores, for each sample.

    At most ceil(rho * foreground voxels); voxels with score 0 are never taken; ties go to the
    lower index, so the result does not depend on the machine.

    Parameters
    ----------
    score
        Not negative, shape (samples, 1, *spatial).
    foreground
        True where a change is allowed, same shape.
    rho
        Share of the foreground, 0 to 1.
    """
    chosen = torch.zeros_like(foreground)
    for sample in range(score.shape[0]):
        inside = foreground[sample].reshape(-1)
        flat = torch.where(inside, score[sample].reshape(-1), 0.0)
        count = quota(inside.numpy(force=True), rho)
        chosen[sample] = largest(flat, count).reshape(foreground[sample].shape)
    return chosen


def places(chosen: Tensor) -> Tensor:
    """Return the flat places of what is True; numpy finds them sooner than torch."""
    return torch.from_numpy(np.flatnonzero(chosen.numpy(force=True))).to(chosen.device)


def largest(flat: Tensor, count: int) -> Tensor:
    """Return True on the `count` largest positive values of (n,); ties go to the lower index."""
    positive = flat > 0
    if count <= 0:
        return torch.zeros_like(positive)
    if int(positive.sum()) <= count:
        return positive
    # numpy's selection takes a third of the time of torch's
    least = float(np.partition(flat.numpy(force=True), len(flat) - count)[len(flat) - count])
    above = flat > least
    ties = flat == least
    return above | (ties & (torch.cumsum(ties, 0) <= count - above.sum()))
