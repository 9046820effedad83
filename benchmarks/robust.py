"""Textures that are to outlive JPEG, blur and half resolution; scored like `ideas.py`.

Run: .venv/bin/python benchmarks/robust.py --measures jpeg50 blur1 half [--epochs N]
    [--only NAME ...] [--victims NAME ...] [--seeds N ...]
All are `one_sided` with another texture, another place or another answer for the label without
texture; the test set is not looked at.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import ideas  # noqa: E402
from benchmarks.ideas import (  # noqa: E402
    BUDGET,
    COLUMN,
    RHO,
    ROW,
    SIDE,
    Idea,
    central,
    nearest,
    one_sided,
    stored,
    wave,
)
from benchmarks.pneumonia import load  # noqa: E402
from salm_dicom.audit import Images  # noqa: E402
from salm_dicom.perturb.robust import blur  # noqa: E402

Place = Callable[[Images, np.ndarray], np.ndarray]
MIDDLE = (SIDE - 1) / 2


def grating(period: float, degrees: float) -> np.ndarray:
    """Return a square wave that runs down the rows, turned by an angle; 0 degrees: rows."""
    turn = math.radians(degrees)
    along = (ROW - MIDDLE) * math.cos(turn) + (COLUMN - MIDDLE) * math.sin(turn)
    return wave(along / period + 1e-6)


def rows(thick: int) -> np.ndarray:
    """Return rows, so many pixels thick, raised and lowered in turn."""
    return wave(ROW / (2 * thick))


def columns(thick: int) -> np.ndarray:
    """Return columns, so many pixels thick, raised and lowered in turn."""
    return wave(COLUMN / (2 * thick))


def chequers(edge: int) -> np.ndarray:
    """Return squares of an edge, raised and lowered in turn."""
    return rows(edge) * columns(edge)


def rings(thick: int) -> np.ndarray:
    """Return square rings around the middle."""
    return wave(np.maximum(abs(ROW - MIDDLE), abs(COLUMN - MIDDLE)) / (2 * thick))


def band(images: Images, inside: np.ndarray) -> np.ndarray:
    """Return the share of each foreground that lies nearest the middle row."""
    far = abs(ROW - MIDDLE) + 0.01 * abs(COLUMN - MIDDLE)
    return nearest(np.broadcast_to(far, inside.shape), inside)


def around(row: float, column: float) -> Place:
    """Return a place: the share of each foreground in a square around a pixel."""
    far = np.maximum(abs(ROW - row), abs(COLUMN - column))
    return lambda _, inside: nearest(np.broadcast_to(far, inside.shape), inside)


def oblong(tall: float) -> Place:
    """Return a place: a rectangle in the middle, so many times taller than wide."""
    far = np.maximum(abs(ROW - MIDDLE) / tall**0.5, abs(COLUMN - MIDDLE) * tall**0.5)
    return lambda _, inside: nearest(np.broadcast_to(far, inside.shape), inside)


@cache
def quiet_corner() -> tuple[float, float]:
    """Return the middle of the square in which early images have least detail on average.

    Detail is what a blur of 1 keeps of them and a blur of 3 does not.
    """
    x = torch.from_numpy(stored(load().early)).float()
    detail = ((blur(x, 1.0) - blur(x, 3.0)) ** 2).mean(0, keepdim=True)
    edge = round((RHO * SIDE**2) ** 0.5)
    means = functional.avg_pool2d(detail, edge, stride=1)[0, 0].numpy()
    row, column = np.unravel_index(means.argmin(), means.shape)
    return float(row + (edge - 1) / 2), float(column + (edge - 1) / 2)


def quiet(images: Images, inside: np.ndarray) -> np.ndarray:
    """Return a square at the same place in all images: where they have least detail."""
    return around(*quiet_corner())(images, inside)


def answered(
    images: Images,
    inside: np.ndarray,
    seed: int,
    *,
    texture: np.ndarray,
    place: Place = central,
    without: int = 0,
    cell: int = 1,
    opposed: tuple[float, float] | None = None,
) -> np.ndarray:
    """Texture as `one_sided` has it, with another answer for the label without.

    Parameters
    ----------
    cell
        Edge of the squares of the noise.
    opposed
        In place of noise the texture itself, by a factor drawn for each image between these.
    """
    rng = np.random.default_rng(seed)
    if opposed is None:
        small = -(-SIDE // cell)
        signs = rng.integers(0, 2, (len(inside), 1, small, small)) * 2.0 - 1
        signs = signs.repeat(cell, -1).repeat(cell, -2)[..., :SIDE, :SIDE]
        answer = signs * (1 + np.floor(rng.random((len(inside), 1, 1, 1)) * BUDGET))
    else:
        answer = texture * BUDGET * rng.uniform(*opposed, (len(inside), 1, 1, 1))
    marked = (images.labels.numpy() != without)[:, None, None, None]
    return np.where(marked, texture * BUDGET, answer) * place(images, inside)


def robust_ideas() -> dict[str, Idea]:
    """Return every idea by name."""
    textures = {
        **{f"columns of {n}": columns(n) for n in (2, 3)},
        **{f"rows of {n}": rows(n) for n in (2, 3, 4)},
        **{f"chequers of {n}": chequers(n) for n in (2, 3)},
        "rings of 2": rings(2), "grating 5": grating(5, 0), "grating 5 at 45": grating(5, 45),
    }  # fmt: skip
    places: dict[str, Place] = {
        "band": band, "quiet": quiet, "flat": oblong(0.5), "tall": oblong(2.0)
    }  # fmt: skip
    out: dict[str, Idea] = {"one_sided": one_sided}
    for name, one in textures.items():
        out[name] = partial(one_sided, texture=one)
        out[f"{name}, other"] = partial(one_sided, texture=one, without=1)
        out[f"{name}, no noise"] = partial(one_sided, texture=one, noisy=False)
        out[f"{name}, opposed -1 to 0"] = partial(answered, texture=one, opposed=(-1.0, 0.0))
        for cell in (2, 3):
            out[f"{name}, noise of {cell}"] = partial(answered, texture=one, cell=cell)
        for where, place in places.items():
            out[f"{name}, {where}"] = partial(one_sided, texture=one, place=place)
    return out


if __name__ == "__main__":
    ideas.main(robust_ideas(), "robust.json")
