"""Makes subjects of fidelity metrics in code: a noisy body with tissues, and changes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.fidelity import Region, Subject
from salm_dicom.volume import StoredPixels

# HU of the halves of the body; lungs and bone are patches of it.
FAT, SOFT = -90, 40


def pixels(
    values: NDArray[np.int16], slope: float = 1.0, intercept: float = -1024.0
) -> StoredPixels:
    count = len(values)
    return StoredPixels(
        values=values,
        slope=np.full(count, slope),
        intercept=np.full(count, intercept),
        bits_stored=16,
        signed=True,
    )


def body(
    slices: int = 3, size: int = 128, noise: float = 12.0, seed: int = 0, **other: Any
) -> Subject:
    """Return an unchanged subject of 1 mm voxels: a square of fat around soft tissue, in air."""
    rng = np.random.default_rng(seed)
    hounsfield = np.full((slices, size, size), -1000.0)
    edge, core = size // 8, size // 4
    hounsfield[:, edge:-edge, edge:-edge] = FAT
    hounsfield[:, core:-core, core:-core] = SOFT
    mask = hounsfield > -500
    hounsfield += rng.normal(0, noise, hounsfield.shape)
    stored = np.rint(hounsfield + 1024).astype(np.int16)
    settings: dict[str, Any] = {
        "pixels": pixels(stored),
        "after": stored,
        "mask": mask,
        "spacing_mm": (1.0, 1.0),
        "modality": "CT",
        "intensity_range": (-160.0, 240.0),
    }
    return Subject(**{**settings, **other})


def changed(subject: Subject, delta: NDArray[Any]) -> Subject:
    """Return a subject whose foreground was changed by `delta` stored units, rounded."""
    whole = np.rint(np.broadcast_to(delta, subject.mask.shape)).astype(np.int16)
    return replace(subject, after=subject.pixels.values + whole * subject.mask)


def square(subject: Subject, side: int, centre: tuple[int, int], index: int = 0) -> NDArray[Any]:
    """Return True in a square of one slice."""
    where = np.zeros(subject.mask.shape, dtype=bool)
    row, column = (c - side // 2 for c in centre)
    where[index, row : row + side, column : column + side] = True
    return where


def region(name: str, where: NDArray[Any]) -> Region:
    return Region(name=name, where=where)
