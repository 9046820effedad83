"""Class-wise baselines that need no network: one pattern, or one process, for each label.

They draw everything from `rng`, which the protector seeds by the label for `class_wise` methods.
Written from the mathematics of the papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from salm_dicom.perturb.budget import Limits
from salm_dicom.perturb.loss import Loss
from salm_dicom.perturb.top_k import top_k


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """Linearly separable perturbation: squares of plus or minus the budget, one pattern a label.

    Yu et al., *Availability Attacks Create Shortcuts*, KDD 2022.

    Parameters
    ----------
    squares
        Along each edge of a slice.
    """

    squares: int = 4

    rho: ClassVar[float] = 1.0
    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = True
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits[Tensor],
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the perturbation in stored units, float32, shape of x."""
        signs = torch.randperm(self.squares**2, generator=rng).reshape(self.squares, self.squares)
        signs = torch.where(signs < self.squares**2 // 2, -1.0, 1.0)
        rows, columns = (torch.arange(n) * self.squares // n for n in x.shape[-2:])
        return signs[rows][:, columns] * limits.budget * torch.ones(x.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Texture:
    """A fine texture for each label, on the share of the foreground that lies nearest its middle.

    A tile of 4 x 4 cells, half of them plus and half minus the budget, is repeated over one
    connected area of each slice. Found in this project's own trials: what is spread over single
    voxels is learned late, the same budget in one area early.

    Parameters
    ----------
    rho
        Share of foreground voxels that change.
    cell
        Edge of a cell in voxels.
    """

    rho: float = 0.2
    cell: int = 1

    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = True
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits[Tensor],
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the perturbation in stored units, float32, shape of x."""
        tile = torch.where(torch.randperm(16, generator=rng).reshape(4, 4) < 8, 1.0, -1.0)
        row, column = (torch.arange(n) for n in x.shape[-2:])
        texture = tile[row // self.cell % 4][:, column // self.cell % 4]
        nearness = torch.stack([_nearness(inside) for inside in foreground])
        chosen = top_k(nearness, foreground, self.rho)
        return torch.where(chosen, texture * limits.budget, 0.0)


def _nearness(inside: Tensor) -> Tensor:
    """Return, for (1, *spatial), 1 in the middle of the True voxels and less further out.

    Squares of equal nearness lie around the middle row and column of all slices together.
    """
    out = torch.zeros(inside.shape)
    where = inside.nonzero()[:, -2:]
    if len(where):
        middle = where.float().mean(0)
        row, column = (torch.arange(n) for n in inside.shape[-2:])
        far = torch.maximum((row - middle[0]).abs()[:, None], (column - middle[1]).abs())
        out = out + 1 / (1 + far)
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoregressive:
    """Noise of an autoregressive process whose coefficients belong to the label.

    A voxel is a weighted sum of the `window`^2 - 1 before it (above and to the left); the weights
    add up to 1. Sandoval-Segura et al., *Autoregressive Perturbations for Data Poisoning*,
    NeurIPS 2022. Slices of one call get different starting values; a standard deviation is half of
    the budget.
    """

    window: int = 3

    rho: ClassVar[float] = 1.0
    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True
    uses_torch: ClassVar[bool] = True
    class_wise: ClassVar[bool] = True
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self,
        x: Tensor,
        loss: Loss,
        foreground: Tensor,
        limits: Limits[Tensor],
        rng: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the perturbation in stored units, float32, shape of x."""
        noise = self._process(x.numel() // (x.shape[-2] * x.shape[-1]), x.shape[-2:], rng)
        noise -= noise.mean(axis=(1, 2), keepdims=True)
        noise /= np.maximum(noise.std(axis=(1, 2), keepdims=True), 1e-6)
        return torch.from_numpy(noise.astype(np.float32)).reshape(x.shape) * limits.budget / 2

    def _process(self, count: int, size: torch.Size, rng: torch.Generator) -> np.ndarray:
        """Return (count, rows, columns) of the first process drawn that does not run away."""
        lag = self.window - 1
        while True:
            drawn = torch.randn(self.window**2 - 1, generator=rng, dtype=torch.float64).numpy()
            if abs(drawn.sum()) < 0.5:
                continue  # divided by a sum near 0 they would be huge
            weights = np.append(drawn / drawn.sum(), 0.0).reshape(self.window, self.window)
            if np.ptp(_run(weights, _noise(1, (64 + lag, 64 + lag), rng))) < 1e3:
                break
        start = _noise(count, (size[0] + lag, size[1] + lag), rng)
        return _run(weights, start)[:, lag:, lag:]


def _noise(count: int, size: tuple[int, int], rng: torch.Generator) -> np.ndarray:
    return torch.randn((count, *size), generator=rng, dtype=torch.float64).numpy()


def _run(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Overwrite all but the first rows and columns by the process; return values."""
    window = len(weights)
    for row in range(window - 1, values.shape[1]):
        for column in range(window - 1, values.shape[2]):
            before = values[:, row - window + 1 : row + 1, column - window + 1 : column + 1]
            values[:, row, column] = (before * weights).sum(axis=(1, 2))
            if abs(values[0, row, column]) > 1e6:
                return values  # running away; the caller draws anew
    return values
