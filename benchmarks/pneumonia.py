"""PneumoniaMNIST as `method.py` uses it: balanced sets, as series of single projections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.measured import shared_file
from salm_dicom.audit import Images
from salm_dicom.volume import StoredPixels, Volume

CLASSES = ("normal", "pneumonia")
A_CLASS = 600
A_SERIES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Clean images: two sets of 1,200 with as many of each class, validation and test."""

    early: Images
    late: Images
    validation: Images
    test: Images


def load() -> Data:
    """Return PneumoniaMNIST; early and late sets have no image in common."""
    raw = np.load(shared_file("pneumoniamnist/pneumoniamnist.npz"))
    labels = raw["train_labels"][:, 0]
    order = np.random.default_rng(0)
    of_class = [order.permutation(np.flatnonzero(labels == c)) for c in range(len(CLASSES))]
    sets = [
        images(raw["train_images"][chosen], labels[chosen])
        for first in (0, A_CLASS)
        if len(chosen := np.concatenate([one[first : first + A_CLASS] for one in of_class]))
    ]
    return Data(
        early=sets[0],
        late=sets[1],
        validation=images(raw["val_images"], raw["val_labels"][:, 0]),
        test=images(raw["test_images"], raw["test_labels"][:, 0]),
    )


def images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    """Return 8-bit images as networks see them."""
    return Images(
        pixels=torch.from_numpy(pixels.astype(np.float32) / 255)[:, None],
        labels=torch.from_numpy(labels.astype(np.int64)),
    )


def volumes(data: Images, together: int = A_SERIES) -> Iterator[tuple[str, slice, Volume]]:
    """Yield label, place and a radiography series of so many images or fewer, of one class."""
    stored = (data.pixels[:, 0] * 255).round().to(torch.uint8).numpy()
    for first in range(0, len(stored), together):
        part = slice(first, first + together)
        (label,) = set(data.labels[part].tolist())
        yield CLASSES[label], part, volume(stored[part])


def volume(stored: np.ndarray) -> Volume:
    """Return 8-bit images, (n, rows, columns), as a radiography series of single projections."""
    count = len(stored)
    pixels = StoredPixels(
        values=stored, slope=np.ones(count), intercept=np.zeros(count), bits_stored=8, signed=False
    )
    return Volume(pixels=pixels, affine=np.eye(4), modality="DX", irregular="single projections")
