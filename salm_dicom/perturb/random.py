"""Random controls, which need no network: a random share of full changes; uniform noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
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
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0

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
        budget = limits.budget.expand(len(x), *limits.budget.shape[1:])
        for sample in range(len(x)):
            inside = foreground[sample].numpy()
            count = quota(inside, self.rho)
            drawn = np.flatnonzero(inside.reshape(-1) & _lottery(inside, count, rng))
            if len(drawn) < count:  # bad luck, likely only in a small image
                drawn = np.flatnonzero(inside)
            drawn = drawn[torch.randperm(len(drawn), generator=rng)[:count].numpy()]
            size = budget[sample].numpy()
            if size.size > 1:
                size = np.broadcast_to(size, inside.shape).reshape(-1)[drawn]
            sign = np.ones(len(drawn), dtype=np.int8)
            sign[: len(drawn) // 2] = -1
            shadow[sample].view(-1).numpy()[drawn] = size.reshape(-1) * sign
        return shadow


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every whole change within the budget equally often, all over the foreground."""

    rho: ClassVar[float] = 1.0
    needs_gradient: ClassVar[bool] = False
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0

    def __call__(
        self,
        x: Tensor,
        loss: Loss | None,
        foreground: Tensor,
        limits: Limits,
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the perturbation in stored units, float32, shape of x."""
        levels = 2 * limits.budget + 1
        # float64: a float32 draw times many levels would miss some of them
        lots = torch.rand(x.shape, generator=rng, dtype=torch.float64)
        return ((lots * levels).floor() - limits.budget).float()


def _lottery(inside: NDArray[np.bool_], count: int, rng: torch.Generator) -> NDArray[np.bool_]:
    """Return True on random places, flat; usually `count` or a few more of them lie inside."""
    share = count / max(int(np.count_nonzero(inside)), 1)
    if share >= 1:
        return np.ones(inside.size, dtype=bool)
    # eight lots of a byte from each 64-bit draw
    draws = torch.empty((inside.size + 7) // 8, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=rng)
    lots = draws.numpy().view(np.uint8)[: inside.size]
    return np.asarray(lots < int(share * 256) + 1)
