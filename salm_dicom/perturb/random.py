"""Random control: changes of full budget on a random share of the foreground; needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits, quota
from salm_dicom.perturb.loss import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Random:
    """Plus or minus the budget, equally often, on voxels drawn at random.

    Parameters
    ----------
    rho
        Share of foreground voxels that change.
    """

    rho: float = 0.2

    needs_gradient: ClassVar[bool] = False

    def __call__(
        self,
        x: Tensor,
        loss: Loss | None,
        foreground: Tensor,
        limits: Limits,
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the perturbation in stored units, shape of x."""
        shadow = torch.zeros_like(x)
        budget = limits.budget.expand(x.shape[0], *limits.budget.shape[1:])
        for sample in range(x.shape[0]):
            flat = shadow[sample].reshape(-1)
            size = budget[sample].expand(x.shape[1:]).reshape(-1)
            inside = torch.nonzero(foreground[sample].reshape(-1))[:, 0]
            count = quota(foreground[sample], self.rho)
            order = torch.topk(torch.rand(len(inside), generator=rng), count, sorted=False).indices
            drawn = inside[order]
            flat[drawn] = size[drawn]
            flat[drawn[: count // 2]] *= -1
        return shadow
