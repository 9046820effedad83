"""COUNTERMEASURES: what a victim may do to protected images before or while it learns from them.

Images are (n, 1, rows, columns), 0 to 1. What is done to images is done to the victim's training,
validation and test images alike, as one pipeline would; batches change in training only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from salm_dicom.perturb.robust import blur, half_and_back

# Batch and label weights (n, classes) in, the same out; randomness from the generator.
Batch = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Countermeasure:
    """One setting of a countermeasure.

    Parameters
    ----------
    setting
        The exact setting, for people.
    images
        Done once to every image.
    batch
        Done to every batch of training.
    clean_share
        Share of the training images that the victim has unprotected.
    """

    setting: str
    images: Callable[[Tensor], Tensor] = lambda x: x
    batch: Batch = lambda x, weights, _: (x, weights)
    clean_share: float = 0.0


def jpeg(quality: int) -> Callable[[Tensor], Tensor]:
    """Return a function that encodes and decodes 8-bit baseline JPEG of a quality, 1 to 95."""

    def through(images: Tensor) -> Tensor:
        # only the audit needs pillow
        from PIL import Image

        out = torch.empty_like(images)
        for index, image in enumerate((images * 255).round().clamp(0, 255).byte()[:, 0].numpy()):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, format="JPEG", quality=quality)
            out[index, 0] = torch.from_numpy(np.array(Image.open(stream), dtype=np.float32) / 255)
        return out

    return through


def levels(count: int) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds to `count` evenly spaced values from 0 to 1."""
    return lambda images: (images * (count - 1)).round() / (count - 1)


def median(edge: int) -> Callable[[Tensor], Tensor]:
    """Return a function that takes the median of `edge` x `edge` pixels; edges are repeated."""

    def filtered(images: Tensor) -> Tensor:
        padded = functional.pad(images, (edge // 2,) * 4, mode="replicate")
        windows = functional.unfold(padded, edge).reshape(*images.shape[:2], edge**2, -1)
        middle: Tensor = windows.median(dim=2).values
        return middle.reshape(images.shape)

    return filtered


def shift_and_flip(x: Tensor, weights: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Move every image by up to 1/14 of its edge (reflected), and mirror half of them."""
    reach = max(x.shape[-1] // 14, 1)
    padded = functional.pad(x, (reach,) * 4, mode="reflect")
    corners = torch.randint(0, 2 * reach + 1, (len(x), 2), generator=rng).tolist()
    rows, columns = x.shape[-2:]
    moved = torch.stack(
        [one[:, r : r + rows, c : c + columns] for one, (r, c) in zip(padded, corners, strict=True)]
    )
    mirrored = torch.rand((len(x), 1, 1, 1), generator=rng) < 0.5
    return torch.where(mirrored, moved.flip(-1), moved), weights


def cutout(x: Tensor, weights: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blank, in every image, a square of half its edge."""
    rows, columns = x.shape[-2:]
    lots = torch.rand((2, len(x), 1, 1, 1), generator=rng)
    row, column = torch.arange(rows).reshape(-1, 1), torch.arange(columns)
    top, left = (lots[0] * rows).floor(), (lots[1] * columns).floor()
    inside = ((row - top).abs() <= rows / 4) & ((column - left).abs() <= columns / 4)
    return x.masked_fill(inside, 0.0), weights


def mixup(x: Tensor, weights: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend every image and its label with another one's, by a share uniform in 0 to 1."""
    share = float(torch.rand((), generator=rng))
    other = torch.randperm(len(x), generator=rng)
    return torch.lerp(x, x[other], share), torch.lerp(weights, weights[other], share)


COUNTERMEASURES: dict[str, Countermeasure] = {
    "none": Countermeasure(setting="no augmentation, nothing done to images"),
    "shift_flip": Countermeasure(
        setting="shifts up to 1/14 of the edge, mirrored half of the time", batch=shift_and_flip
    ),
    "jpeg90": Countermeasure(setting="JPEG, quality 90", images=jpeg(90)),
    "jpeg50": Countermeasure(setting="JPEG, quality 50", images=jpeg(50)),
    "jpeg10": Countermeasure(setting="JPEG, quality 10", images=jpeg(10)),
    "8bit": Countermeasure(setting="256 levels over the intensity range", images=levels(256)),
    "2bit": Countermeasure(setting="4 levels over the intensity range", images=levels(4)),
    "blur0.5": Countermeasure(setting="Gaussian, sigma 0.5", images=lambda x: blur(x, 0.5)),
    "blur1": Countermeasure(setting="Gaussian, sigma 1", images=lambda x: blur(x, 1.0)),
    "blur2": Countermeasure(setting="Gaussian, sigma 2", images=lambda x: blur(x, 2.0)),
    "median3": Countermeasure(setting="median of 3 x 3", images=median(3)),
    "half": Countermeasure(
        setting="mean of 2 x 2 pixels, back by bilinear interpolation", images=half_and_back
    ),
    "cutout": Countermeasure(setting="a square of half the edge blanked", batch=cutout),
    "mixup": Countermeasure(setting="uniform shares", batch=mixup),
    "clean20": Countermeasure(setting="20 % of the training images unprotected", clean_share=0.2),
}
