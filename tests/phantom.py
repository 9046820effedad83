"""A CT phantom in Hounsfield units: air, an elliptic body, lungs or a liver, a spine, noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NOISE_HU = 12.0


def phantom(
    slices: int, rows: int, columns: int, *, lungs: bool, seed: list[int]
) -> Iterator[NDArray[np.float32]]:
    """Yield each slice, shape (rows, columns); size, position and noise depend on `seed`."""
    rng = np.random.default_rng(seed)
    y, x = axes(rows, columns)
    size, shift = rng.uniform(0.92, 1.0), rng.uniform(-0.04, 0.04)
    for index in range(slices):
        z = (index + 0.5) / slices * 2 - 1
        scale = size * (1 - 0.12 * z * z)
        image = np.full((rows, columns), -1000, np.float32)
        image[_ellipse(x - shift, y, 0.85 * scale, 0.62 * scale)] = 40
        if lungs:
            for side in (-0.38, 0.38):
                image[_ellipse(x - side - shift, y + 0.05, 0.26 * scale, 0.38 * scale)] = -800
            image[_ellipse(x - 0.4, y + 0.1, 0.08 * scale, 0.08 * scale)] = 30  # a nodule
        else:
            image[_ellipse(x + 0.3, y + 0.05, 0.4 * scale, 0.35 * scale)] = 100
        image[_ellipse(x - shift, y - 0.42, 0.12 * scale, 0.12 * scale)] = 600
        image += _NOISE_HU * rng.standard_normal(image.shape, np.float32)
        yield image


def axes(rows: int, columns: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return y, shape (rows, 1), and x, shape (1, columns): pixel centres from -1 to 1."""
    y = (np.arange(rows)[:, None] + 0.5) / rows * 2 - 1
    x = (np.arange(columns)[None] + 0.5) / columns * 2 - 1
    return y, x


def _ellipse(x: NDArray[Any], y: NDArray[Any], width: float, height: float) -> NDArray[np.bool_]:
    return (x / width) ** 2 + (y / height) ** 2 <= 1
