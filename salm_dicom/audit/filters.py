"""Filters: what may be done once to every image, of shape (n, 1, rows, columns) and 0 to 1."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Filter = Callable[[Tensor], Tensor]

_EPOCHS = 20
_BATCH = 32
_LEARNING_RATE = 0.1


def jpeg(quality: int) -> Filter:
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


def levels(count: int) -> Filter:
    """Return a function that rounds to `count` evenly spaced values from 0 to 1."""
    return lambda images: (images * (count - 1)).round() / (count - 1)


def median(edge: int) -> Filter:
    """Return a function that takes the median of `edge` x `edge` pixels; edges are repeated."""

    def filtered(images: Tensor) -> Tensor:
        padded = functional.pad(images, (edge // 2,) * 4, mode="replicate")
        # image by image: the windows of many would fill the memory
        windows = (functional.unfold(one[None], edge) for one in padded)
        middle = torch.cat([one.median(dim=1).values for one in windows])
        return middle.reshape(images.shape)

    return filtered


def without_linear_features(images: Tensor, labels: Tensor) -> Filter:
    """Return a function that removes what a linear classifier of these images looks at.

    Softmax regression on centred pixels, 20 epochs of SGD from 0 (rate 0.1, batches of 32 in
    order); its weights, made orthonormal, are projected out of every image.

    Parameters
    ----------
    images, labels
        (n, ...) and (n,) of the training set.

    References
    ----------
    Orthogonal projection: Sandoval-Segura et al., *What Can We Learn from Unlearnable Datasets?*,
    NeurIPS 2023.
    """
    flat = images.reshape(len(images), -1)
    middle = flat.mean(0)
    weights = torch.zeros((flat.shape[1], int(labels.max()) + 1))
    wanted = functional.one_hot(labels).float()
    order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
    for _ in range(_EPOCHS):
        for chosen in torch.split(order, _BATCH):
            x = flat[chosen] - middle
            error = torch.softmax(x @ weights, 1) - wanted[chosen]
            weights -= _LEARNING_RATE * x.T @ error / len(chosen)
    basis, triangle = torch.linalg.qr(weights)
    # the weights of all classes add up to 0, so that one direction is rounding errors only
    basis = basis[:, triangle.diagonal().abs() > 1e-4 * triangle.abs().max()]

    def projected(others: Tensor) -> Tensor:
        flat = others.reshape(len(others), -1)
        left: Tensor = flat - ((flat - middle) @ basis) @ basis.T
        return left.clamp(0, 1).reshape(others.shape)

    return projected
