"""Pairs of a rising and a falling voxel: the most salient ones that leave every region's mean."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from salm_dicom.perturb.budget import quota
from salm_dicom.perturb.top_k import largest, places

# A region may hold this many times its share of the changes.
_CROWDING = 2.0


def top_pairs(score: Tensor, foreground: Tensor, rho: float, region: int | None) -> Tensor:
    """Return True on the voxels with the highest |score|, as many rising as falling in a region.

    In every region the voxel that rises most is paired with the one that falls most, the second
    with the second, and so on; the pairs with the highest sums of a sample are taken, at most
    ceil(rho * foreground voxels) voxels. A region gives at most 2 rho of its voxels: half a region
    that rises beside half that falls is a shape that can be seen. No other choice within these
    bounds that has as many rising as falling voxels in every region has a higher sum. Voxels with
    score 0 are never taken; of equal ones the first rises and the last falls.

    Parameters
    ----------
    score
        Signed, shape (samples, 1, *spatial).
    foreground
        True where a change is allowed, same shape.
    rho
        Share of the foreground, 0 to 1.
    region
        Edge in voxels of the squares that are balanced, within a slice; None: whole slices.
    """
    edges = _edges(score.shape[-2:], region)
    inside = torch.where(foreground, score, 0.0)
    squares = _squares(inside, edges)
    voxels = squares.shape[-1]
    deepest = min(math.ceil(_CROWDING * rho * voxels / 2), voxels)
    chosen = torch.zeros_like(squares, dtype=torch.bool)
    for every, mask, taken in zip(squares, foreground, chosen, strict=True):
        holds = torch.from_numpy((every.numpy(force=True) != 0).any(-1))
        some = places(holds).to(every.device)  # many hold nothing but air
        values = every.index_select(0, some)
        up, down = _by_rank(values, deepest)
        rising, falling = values.gather(-1, up), values.gather(-1, down)
        strength = torch.where((rising > 0) & (falling < 0), rising - falling, 0.0)
        pairs = quota(mask.numpy(force=True), rho) // 2
        best = places(largest(strength.reshape(-1), pairs))
        starts = some.index_select(0, best // deepest) * voxels
        for end in (up, down):
            taken.view(-1).index_fill_(0, starts + end.reshape(-1).index_select(0, best), True)
    return _joined(chosen, score.shape, edges)


def _by_rank(values: Tensor, deepest: int) -> tuple[Tensor, Tensor]:
    """Return the places of each row's highest values, and of its lowest, so many of each.

    The highest, or lowest, comes first; of equal ones the first in a row is the higher one.
    Floats sort like their bits once those of negative ones are turned over. With the place below
    them every number differs, and any sort is stable: numpy's is then three times as quick.
    """
    bits = values.numpy(force=True).view(np.int32)
    turned = bits >> 31
    turned &= 0x7FFFFFFF
    turned ^= bits
    keys = np.invert(turned, out=turned).astype(np.int64)
    keys <<= 32
    keys |= np.arange(values.shape[-1])
    keys.sort(axis=-1)
    keys = np.stack([keys[:, :deepest], keys[:, ::-1][:, :deepest]])
    keys &= 0xFFFFFFFF
    up, down = torch.from_numpy(keys).to(values.device)
    return up, down


def _edges(plane: torch.Size, region: int | None) -> tuple[int, int]:
    rows, columns = plane
    return (rows, columns) if region is None else (min(region, rows), min(region, columns))


def _squares(values: Tensor, edges: tuple[int, int]) -> Tensor:
    """Return (samples, ..., rows, columns) as (samples, regions, voxels of a region)."""
    rows, columns = (-size % edge for size, edge in zip(values.shape[-2:], edges, strict=True))
    padded = functional.pad(values, (0, columns, 0, rows))
    high, wide = edges
    cut = padded.reshape(
        len(values), -1, padded.shape[-2] // high, high, padded.shape[-1] // wide, wide
    )
    return cut.transpose(3, 4).reshape(len(values), -1, high * wide)


def _joined(squares: Tensor, shape: torch.Size, edges: tuple[int, int]) -> Tensor:
    """Return what `_squares` took apart."""
    high, wide = edges
    down, across = (-(-size // edge) for size, edge in zip(shape[-2:], edges, strict=True))
    cut = squares.reshape(len(squares), -1, down, across, high, wide).transpose(3, 4)
    whole = cut.reshape(*shape[:-2], down * high, across * wide)
    return whole[..., : shape[-2], : shape[-1]]
