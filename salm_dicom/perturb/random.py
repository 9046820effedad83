"""Random control: changes of full budget on a random share of the foreground; needs no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits, places, quota
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
        """Return the perturbation in stored units, shape of x, int16 where that is enough."""
        small = float(limits.budget.max()) <= torch.iinfo(torch.int16).max
        shadow = torch.zeros(x.shape, dtype=torch.int16 if small else torch.int32)
        budget = limits.budget.expand(x.shape)
        for sample in range(x.shape[0]):
            inside = foreground[sample].reshape(-1)
            count = quota(inside, self.rho)
            drawn = places(inside & _lottery(inside, count, rng))
            drawn = drawn[torch.randperm(len(drawn), generator=rng)[:count]]
            size = budget[sample].reshape(-1)[drawn]
            size[: len(drawn) // 2] *= -1
            shadow[sample].view(-1)[drawn] = size.to(shadow.dtype)
        return shadow


def _lottery(inside: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return True on random places, so many that about `count` of them lie inside."""
    share = count / max(int(inside.sum()), 1)
    if share >= 1:
        return torch.ones_like(inside)
    # four 16-bit lots from each 64-bit draw
    lots = torch.empty((len(inside) + 3) // 4, dtype=torch.int64)
    lots.random_(-(2**63), None, generator=rng)
    return lots.view(torch.int16)[: len(inside)] < int(share * 65536) - 32768
