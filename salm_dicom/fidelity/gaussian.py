"""Gaussian means of windows that slide over an image, as products of matrices."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

# Rows of one product of matrices, and most multiplications in it: a BLAS gives so small ones to one
# thread, and every process that measures has one.
_BLOCK, _PRODUCT = 16, 1 << 18


class Gaussian(NamedTuple):
    """A window of so many taps, an odd number, in rows and in columns, and its SD in pixels."""

    taps: int
    sd: float


def means(image: Image, window: Gaussian, step: int = 1) -> Image:
    """Return the weighted mean of each window that fits, or with a step of 2 of every second."""
    rows, columns = (-(-(side - window.taps + 1) // step) for side in image.shape)
    widest = _PRODUCT // _BLOCK // (_BLOCK - 1 + window.taps)
    if max(image.shape) <= widest:
        found = _down(np.ascontiguousarray(image), window, step, rows)
        return _across(found, window, step, columns)
    found = np.empty((rows, columns), dtype=np.float32)
    side = (widest - window.taps) // step + 1
    for top, left in product(range(0, rows, side), range(0, columns, side)):
        part = found[top : top + side, left : left + side]
        down, across = (step * (size - 1) + window.taps for size in part.shape)
        part[:] = means(image[step * top :, step * left :][:down, :across], window, step)
    return found


def _down(image: Image, window: Gaussian, step: int, rows: int) -> Image:
    """Return the means along columns: of a block of rows the product of a band and what it needs.

    A BLAS does that in a third of the time of shifting and adding.
    """
    found = np.empty((rows, image.shape[1]), dtype=np.float32)
    height = _BLOCK // step
    whole, rest = divmod(rows, height)
    if whole:
        band = _band(window, step, height)
        (down, across), shape = image.strides, (whole, band.shape[1], image.shape[1])
        blocks = np.ndarray(shape, image.dtype, image, 0, (_BLOCK * down, down, across))
        np.matmul(band, blocks, out=found[: whole * height].reshape(whole, height, -1))
    if rest:
        band = _band(window, step, rest)
        np.matmul(band, image[whole * _BLOCK :][: band.shape[1]], out=found[-rest:])
    return found


def _across(image: Image, window: Gaussian, step: int, columns: int) -> Image:
    """Return the means along rows, the same from the other side."""
    found = np.empty((len(image), columns), dtype=np.float32)
    width = _BLOCK // step
    whole, rest = divmod(columns, width)
    if whole:
        band = _upright(window, step, width)
        parts, goal = _parts(image, whole, len(band), _BLOCK), _parts(found, whole, width, width)
        np.matmul(parts, band, out=goal)
    if rest:
        band = _upright(window, step, rest)
        np.matmul(image[:, whole * _BLOCK :][:, : len(band)], band, out=found[:, -rest:])
    return found


def _parts(image: Image, count: int, columns: int, apart: int) -> Image:
    """Return so many groups of columns where they lie, (groups, rows, columns of one)."""
    shape, strides = (count, len(image), columns), (apart * image.strides[1], *image.strides)
    return np.ndarray(shape, image.dtype, image, 0, strides)


@lru_cache
def _band(window: Gaussian, step: int, height: int) -> Image:
    """Return the matrix that makes so many means of the values that they need."""
    places = np.arange(window.taps) - window.taps // 2
    weights = np.exp(-(places**2) / (2 * window.sd**2))
    band = np.zeros((height, step * (height - 1) + window.taps), dtype=np.float32)
    for row in range(height):
        band[row, step * row : step * row + window.taps] = weights / weights.sum()
    return band


@lru_cache
def _upright(window: Gaussian, step: int, width: int) -> Image:
    """Return the same matrix for values that stand to its left."""
    return np.ascontiguousarray(_band(window, step, width).T)
