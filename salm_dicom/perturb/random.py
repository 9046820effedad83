"""Random controls, which need no network: a random share of full changes; uniform noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.perturb.budget import Limits, quota


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
    needs_label: ClassVar[bool] = False
    uses_torch: ClassVar[bool] = False
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self,
        x: NDArray[Any],
        loss: object,
        foreground: NDArray[np.bool_],
        limits: Limits[NDArray[Any]],
        rng: np.random.Generator,
        start: None = None,
    ) -> NDArray[Any]:
        """Return the perturbation in stored units, shape of x, int16 where that is enough."""
        small = limits.budget.max() <= np.iinfo(np.int16).max
        shadow = np.zeros(x.shape, dtype=np.int16 if small else np.int32)
        budget = np.broadcast_to(limits.budget, (len(x), *limits.budget.shape[1:]))
        for out, inside, size in zip(shadow, foreground, budget, strict=True):
            count = quota(inside, self.rho)
            drawn = np.flatnonzero(inside.reshape(-1) & _lottery(inside, count, rng))
            if len(drawn) < count:  # bad luck, likely only in a small image
                drawn = np.flatnonzero(inside)
            drawn = rng.permutation(drawn)[:count]
            if size.size > 1:
                size = np.broadcast_to(size, inside.shape).reshape(-1)[drawn]
            sign = np.ones(len(drawn), dtype=np.int8)
            sign[: len(drawn) // 2] = -1
            out.reshape(-1)[drawn] = size.reshape(-1) * sign
        return shadow


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Every whole change within the budget equally often, all over the foreground."""

    rho: ClassVar[float] = 1.0
    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = False
    uses_torch: ClassVar[bool] = False
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self,
        x: NDArray[Any],
        loss: object,
        foreground: NDArray[np.bool_],
        limits: Limits[NDArray[Any]],
        rng: np.random.Generator,
        start: None = None,
    ) -> NDArray[Any]:
        """Return the perturbation in stored units, integers, shape of x."""
        most = np.broadcast_to(limits.budget, x.shape)
        return rng.integers(-most, most, endpoint=True)


def _lottery(inside: NDArray[np.bool_], count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return True on random places, flat; usually `count` or a few more of them lie inside."""
    share = count / max(int(np.count_nonzero(inside)), 1)
    if share >= 1:
        return np.ones(inside.size, dtype=bool)
    # eight lots of a byte from each 64-bit draw
    draws = rng.integers(0, 2**64, (inside.size + 7) // 8, dtype=np.uint64)
    lots = draws.astype("<u8").view(np.uint8)[: inside.size]
    return np.asarray(lots < int(share * 256) + 1)
