"""What happens to shared images, as differentiable draws (EOT), and low-frequency gradients.

Expectation over transformation: a perturbation that must work after a shift, a blur or a coarser
grid is optimised through random draws of them (Athalye et al., *Synthesizing Robust Adversarial
Examples*, ICML 2018).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from salm_dicom.perturb.loss import Loss


def shifted(loss: Loss, rng: torch.Generator) -> Loss:
    """Return the loss of images moved by up to 1/14 of their width within the slice."""
    lots = torch.rand(2, generator=rng)

    def seen(stored: Tensor) -> Tensor:
        reach = max(stored.shape[-1] // 14, 1)
        by = ((2 * reach + 1) * lots).long() - reach
        return loss(torch.roll(stored, by.tolist(), dims=(-2, -1)))

    return seen


def flipped(loss: Loss, rng: torch.Generator) -> Loss:
    """Return the loss of images that are mirrored left to right, every second time."""
    if _share(rng) < 0.5:
        return loss
    return lambda stored: loss(stored.flip(-1))


def blurred(loss: Loss, rng: torch.Generator) -> Loss:
    """Return the loss of images blurred by 0.5 to 1.5 voxels within a slice, half of the time."""
    if _share(rng) < 0.5:
        return loss
    sigma = 0.5 + _share(rng)
    return lambda stored: loss(blur(stored, sigma))


def halved(loss: Loss, rng: torch.Generator) -> Loss:
    """Return the loss of images at half resolution and back, every third time."""
    if _share(rng) < 2 / 3:
        return loss
    return lambda stored: loss(half_and_back(stored))


TRANSFORMS: dict[str, Callable[[Loss, torch.Generator], Loss]] = {
    "shift": shifted,
    "flip": flipped,
    "blur": blurred,
    "half": halved,
}


def transformed(images: Tensor, names: tuple[str, ...], rng: torch.Generator) -> Tensor:
    """Return images (n, c, *spatial) after one draw of every transform named, for all the same."""
    seen: Loss = _as_they_are
    for name in names:
        seen = TRANSFORMS[name](seen, rng)
    return seen(images)


def _as_they_are(images: Tensor) -> Tensor:
    return images


def blur(x: Tensor, sigma: float) -> Tensor:
    """Return x (n, c, *spatial) after a Gaussian blur within each slice; edges are repeated."""
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-(at**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = functional.pad(flat, (reach,) * 4, mode="replicate")
    flat = functional.conv2d(flat, kernel.reshape(1, 1, 1, -1))
    return functional.conv2d(flat, kernel.reshape(1, 1, -1, 1)).reshape(x.shape)


def half_and_back(x: Tensor) -> Tensor:
    """Return x (n, c, *spatial) at half resolution within each slice, and back (bilinear)."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    half = functional.avg_pool2d(flat, 2, ceil_mode=True, count_include_pad=False)
    back = functional.interpolate(half, size=x.shape[-2:], mode="bilinear", align_corners=False)
    return back.reshape(x.shape)


def in_blocks(x: Tensor, edge: int) -> Tensor:
    """Return x (n, c, *spatial) with every `edge` x `edge` square of a slice at its mean."""
    if edge == 1:
        return x
    rows, columns = x.shape[-2:]
    flat = x.reshape(-1, 1, rows, columns)
    coarse = functional.avg_pool2d(flat, edge, ceil_mode=True, count_include_pad=False)
    fine = coarse.repeat_interleave(edge, -2).repeat_interleave(edge, -1)
    return fine[..., :rows, :columns].reshape(x.shape)


def _share(rng: torch.Generator) -> float:
    return float(torch.rand((), generator=rng))
