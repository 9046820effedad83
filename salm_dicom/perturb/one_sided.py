"""A texture for every label but one: clean images lie on the side of the label without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.perturb.budget import Limits, quota

Integers = NDArray[np.signedinteger[Any]]

# Cells to an edge of what is raised or lowered as one. Coarse textures are turned as well: victims
# learned rows of two sooner than columns of two. Noise stays fine, for coarse noise moves means.
GRAINS = {"fine": 1, "coarse": 2}

# By row and column, counted in cells: whether a cell is raised. The one that networks learned
# first in trials comes first; images have little energy where signs alternate that quickly.
_TEXTURES: tuple[Callable[[Integers, Integers], Integers], ...] = (
    lambda row, column: (0 * row + column) % 2,
    lambda row, column: (row + column) % 2,
    lambda row, column: (row + 0 * column) % 2,
    lambda row, column: (row // 2 + column) % 2,
    lambda row, column: (row + column // 2) % 2,
    lambda row, column: (row // 2 + column // 2) % 2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """A regular texture in one area for every label but one, which gets faint noise there.

    A victim learns "texture: this label; none: that one" before it has learned anatomy. A clean
    image has no texture, so it is taken for that one label whatever it shows. A texture for every
    label does less: a clean image then lies halfway between them, and what little anatomy was
    learned on the way decides. The one label changes as many voxels in the same place, by random
    signs of a strength that is drawn for each slice: from hardly anything, so that clean images
    belong to it, up to the budget, so that noise is no texture.

    The area is connected, because what is spread over single voxels is learned late. No gradient
    takes part. Found in this project's own trials.

    Parameters
    ----------
    rho
        Share of foreground voxels that change: those nearest to the middle of the foreground.
    place
        Of the sample's label among all; 0 is the label without texture.
    cell
        Edge of the squares that share a sign, in pixels of `grid`.
    grain
        `fine`: columns of one cell first, which networks learn soonest in images as they are.
        `coarse`: rows of two first, of which half resolution and often blur leave something;
        its noise is as fine as the other's.
    grid
        Rows and columns of the images that victims are expected to learn from; None: the
        sample's own.
    """

    rho: float = 0.2
    place: int = 0
    cell: int = 1
    grain: str = "fine"
    grid: tuple[int, int] | None = None

    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True
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
        """Return the perturbation in stored units, shape of x."""
        edges = zip(x.shape[-2:], self.grid or x.shape[-2:], strict=True)
        row, column = (
            np.arange(have) // (self.cell * max(round(have / want), 1)) for have, want in edges
        )
        raised = self._raised(x.shape[:-2], row, column, rng)
        strength = limits.budget if self.place else _up_to(limits.budget, x.shape[:-2], rng)
        chosen = np.stack([_central(one, self.rho) for one in foreground])
        shadow: NDArray[Any] = np.where(chosen, 2 * raised - 1, 0) * strength
        return shadow

    def _raised(
        self, outer: tuple[int, ...], row: Integers, column: Integers, rng: np.random.Generator
    ) -> Integers:
        """Return 1 where a voxel is raised, 0 where it is lowered; broadcasts to the samples."""
        if not self.place:
            size = (*outer, int(row[-1]) + 1, int(column[-1]) + 1)
            drawn = rng.integers(0, 2, size, dtype=np.int8)
            return drawn[..., row, :][..., column]
        thick = GRAINS[self.grain]
        row, column = row // thick, column // thick
        if self.place <= len(_TEXTURES):
            texture = _TEXTURES[self.place - 1]
            turned = self.grain == "coarse"
            return texture(column, row[:, None]) if turned else texture(row[:, None], column)
        tile = np.random.default_rng(self.place).permutation(16).reshape(4, 4) % 2
        return tile[row % 4][:, column % 4]


def _up_to(budget: NDArray[Any], outer: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Return a whole number from 1 to the budget for each slice, all equally often."""
    strength: NDArray[Any] = 1 + np.floor(rng.random((*outer, 1, 1)) * budget)
    return strength


def _central(inside: NDArray[np.bool_], rho: float) -> NDArray[np.bool_]:
    """Return True on the share of the True voxels, (1, *spatial), nearest to their middle.

    Squares of equal distance lie around the middle row and column of all slices together; ties go
    to the lower index.
    """
    chosen = np.zeros(inside.shape, dtype=bool)
    where = np.flatnonzero(inside)
    row, column = np.unravel_index(where, inside.shape)[-2:]
    if where.size:
        far = np.maximum(np.abs(row - row.mean()), np.abs(column - column.mean()))
        count = quota(inside, rho)
        chosen.reshape(-1)[where[np.argsort(far, kind="stable")[:count]]] = True
    return chosen
