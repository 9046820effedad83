"""Patches: overlapping parts of a volume that a network sees one by one, in place of all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# Of one patch, (1, 1, *size), and what cuts it out of values on the same grid: a number.
OfPatch = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
# Share of its edge by which a patch reaches into the next one, at least.
_OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class Patches:
    """Where patches lie on a grid: evenly spread, so that each voxel is in at least one.

    Parameters
    ----------
    shape
        Of the grid.
    size
        Of a patch. A grid with a shorter edge is padded with zeros at its end.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]

    def __len__(self) -> int:
        return prod(len(starts) for starts in self._starts())

    def place(self, index: int) -> tuple[slice, ...]:
        """Return where a patch lies on the grid, without padding."""
        starts = self._starts()
        turn = np.unravel_index(index, [len(some) for some in starts])
        return tuple(
            slice(some[i], min(some[i] + edge, length))
            for some, i, edge, length in zip(starts, turn, self.size, self.shape, strict=True)
        )

    def cut(self, values: Tensor, index: int) -> Tensor:
        """Return one patch, (n, 1, ...), of values on the grid, (n, 1, ...)."""
        where: Any = (..., *self.place(index))
        return self.padded(values[where])

    def padded(self, part: Tensor) -> Tensor:
        """Return the values of a place as a patch."""
        missing = [edge - have for edge, have in zip(self.size, part.shape[2:], strict=True)]
        if not any(missing):
            return part
        return functional.pad(part, [n for more in reversed(missing) for n in (0, more)])

    def evened(self, sums: Tensor) -> Tensor:
        """Return sums over patches, (n, 1, ...), as means over those a voxel is in; in place."""
        for axis, (starts, edge) in enumerate(zip(self._starts(), self.size, strict=True)):
            seen = torch.zeros(self.shape[axis])
            for start in starts:
                seen[start : start + edge] += 1
            others = len(self.shape) - 1 - axis
            sums /= seen.reshape(-1, *[1] * others)
        return sums

    def _starts(self) -> list[list[int]]:
        return [_starts(*edges) for edges in zip(self.shape, self.size, strict=True)]


def summed(whole: Tensor, patches: Patches, measure: OfPatch) -> Tensor:
    """Return the sum of what `measure` gives of each patch of a volume, (1, 1, ...).

    A voxel's gradient is the mean over its patches. Patches of nothing but 0 are left out. Memory
    is that of one patch and two volumes, however many patches there are.
    """
    apply: Any = _Summed.apply
    found: Tensor = apply(whole, patches, measure)
    return found


class _Summed(torch.autograd.Function):
    """Takes the gradient of each patch as soon as its value is known: nothing has to be kept."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, patches: Patches, measure: OfPatch) -> Tensor:
        is_asked = whole.requires_grad
        total, slope = torch.zeros(()), torch.zeros_like(whole) if is_asked else None
        for index in range(len(patches)):
            patch = patches.cut(whole.detach(), index)
            if not patch.any():
                continue
            cut = partial(patches.cut, index=index)
            with torch.set_grad_enabled(is_asked):
                leaf = patch.clone().requires_grad_(is_asked)
                value = measure(leaf, cut)
                if slope is not None:
                    (of_patch,) = torch.autograd.grad(value, leaf)
                    place: Any = (..., *patches.place(index))
                    inner: Any = (..., *(slice(one.stop - one.start) for one in place[1:]))
                    slope[place] += of_patch[inner]
            total += value.detach()
        if slope is not None:
            ctx.slope = patches.evened(slope)
        return total

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        return given[0] * ctx.slope, None, None


def _starts(length: int, edge: int) -> list[int]:
    if length <= edge:
        return [0]
    stride = max(int(edge * (1 - _OVERLAP)), 1)
    count = ceil((length - edge) / stride) + 1
    return [int(start) for start in np.linspace(0, length - edge, count).round()]
