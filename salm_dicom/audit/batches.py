"""Batches: what a victim may do to every batch of its training.

A batch is (n, channels, rows, columns), 0 to 1, with weights (n, classes) of its labels, or masks
of its shape; of volumes the slices are the channels. Everything random comes from the generator.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from salm_dicom.learning import attacked

# The victim's loss of each image of the batch, at the images given.
Loss = Callable[[Tensor], Tensor]
Batch = Callable[[Tensor, Tensor, torch.Generator, Loss], tuple[Tensor, Tensor]]

_DRAWS = 5
_ROUGHNESS = 0.5
_RADIUS, _STEP, _STEPS = torch.tensor(8 / 255), torch.tensor(2 / 255), 10


def untouched(x: Tensor, weights: Tensor, _: torch.Generator, __: Loss) -> tuple[Tensor, Tensor]:
    """Return the batch as it is."""
    return x, weights


def shift_and_flip(
    x: Tensor, weights: Tensor, rng: torch.Generator, _: Loss
) -> tuple[Tensor, Tensor]:
    """Move every image by up to 1/14 of its edge (reflected), and mirror half of them.

    Masks move with their images.
    """
    if weights.ndim == 2:
        return _moved(x, rng), weights
    both = _moved(torch.cat([x, weights.to(x.dtype)], dim=1), rng)
    moved, masks = torch.split(both, x.shape[1], dim=1)
    return moved, masks.to(weights.dtype)


def _moved(x: Tensor, rng: torch.Generator) -> Tensor:
    reach = max(x.shape[-1] // 14, 1)
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    corners = torch.randint(0, 2 * reach + 1, (len(x), 2), generator=rng).tolist()
    rows, columns = x.shape[-2:]
    moved = torch.stack(
        [one[:, r : r + rows, c : c + columns] for one, (r, c) in zip(padded, corners, strict=True)]
    )
    mirrored = torch.rand((len(x), 1, 1, 1), generator=rng) < 0.5
    return torch.where(mirrored, moved.flip(-1), moved)


def cutout(x: Tensor, weights: Tensor, rng: torch.Generator, _: Loss) -> tuple[Tensor, Tensor]:
    """Blank, in every image, a square of half its edge."""
    rows, columns = x.shape[-2:]
    lots = torch.rand((2, len(x), 1, 1, 1), generator=rng)
    row, column = torch.arange(rows).reshape(-1, 1), torch.arange(columns)
    top, left = (lots[0] * rows).floor(), (lots[1] * columns).floor()
    inside = ((row - top).abs() <= rows / 4) & ((column - left).abs() <= columns / 4)
    return x.masked_fill(inside, 0.0), weights


def mixup(x: Tensor, weights: Tensor, rng: torch.Generator, _: Loss) -> tuple[Tensor, Tensor]:
    """Blend every image and its label with another one's, by a share uniform in 0 to 1."""
    share = float(torch.rand((), generator=rng))
    other = torch.randperm(len(x), generator=rng)
    return torch.lerp(x, x[other], share), torch.lerp(weights, weights[other], share)


def cutmix(x: Tensor, weights: Tensor, rng: torch.Generator, _: Loss) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image into every one; labels are blended by its area.

    The area is uniform in 0 to 1 before the rectangle is cut at the edges.
    """
    rows, columns = x.shape[-2:]
    side, down, right = torch.rand(3, generator=rng).tolist()
    half_rows, half_columns = rows * side**0.5 / 2, columns * side**0.5 / 2
    row, column = torch.arange(rows).reshape(-1, 1), torch.arange(columns)
    inside = ((row - down * rows).abs() < half_rows) & (
        (column - right * columns).abs() < half_columns
    )
    other = torch.randperm(len(x), generator=rng)
    share = float(inside.float().mean())
    return torch.where(inside, x[other], x), torch.lerp(weights, weights[other], share)


def ueraser(x: Tensor, weights: Tensor, rng: torch.Generator, loss: Loss) -> tuple[Tensor, Tensor]:
    """Take, of five draws of plasma brightness and contrast, the one with the largest loss.

    Qin et al., *Learning the Unlearnable: Adversarial Augmentations Suppress Unlearnable Example
    Attacks*, 2023. Brightness moves by up to 0.5, contrast about the image's mean by a factor
    of 0.5 to 2, each in half of the draws, following a fractal of its own.
    """
    draws = torch.stack([_plasma_seen(x, rng) for _ in range(_DRAWS)])
    with torch.no_grad():
        worst = torch.stack([loss(one) for one in draws]).argmax(0)
    return draws[worst, torch.arange(len(x))], weights


def adversarial(
    x: Tensor, weights: Tensor, rng: torch.Generator, loss: Loss
) -> tuple[Tensor, Tensor]:
    """Change every image by up to 8/255 so that the loss is large: PGD, 10 steps of 2/255."""

    def total(seen: Tensor) -> Tensor:
        return loss(seen).sum()

    return attacked(total, x, rng, radius=_RADIUS, step=_STEP, steps=_STEPS), weights


def _plasma_seen(x: Tensor, rng: torch.Generator) -> Tensor:
    lots = torch.rand((2, len(x), 1, 1, 1), generator=rng) < 0.5
    brightness = _plasma(x, rng) - 0.5
    factor = 2 ** (2 * _plasma(x, rng) - 1)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = torch.where(lots[0], x + brightness, x).clamp(0, 1)
    return torch.where(lots[1], middle + (x - middle) * factor, x).clamp(0, 1)


def _plasma(x: Tensor, rng: torch.Generator) -> Tensor:
    """Return a fractal for each image, (n, 1, rows, columns), 0 to 1: noise over octaves."""
    total = torch.zeros((len(x), 1, *x.shape[-2:]))
    cells, weight = 1, 1.0
    while cells < max(x.shape[-2:]):
        noise = torch.rand((len(x), 1, cells + 1, cells + 1), generator=rng)
        size = tuple(x.shape[-2:])
        total += weight * functional.interpolate(noise, size, mode="bilinear", align_corners=True)
        cells, weight = 2 * cells, weight * _ROUGHNESS
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low).clamp(min=1e-6)
