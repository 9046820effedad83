"""What changed in a volume, in numbers: PSNR and SSIM in a stated range, shift, largest change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import PSNRMetric, SSIMMetric
from numpy.typing import NDArray

from salm_dicom.volume import Booleans


@dataclass(frozen=True, slots=True)
class SliceFidelity:
    """PSNR in dB, SSIM, and the signed shift of the foreground mean of one slice."""

    psnr_db: float
    ssim: float
    mean_shift: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """Numbers of one volume; modality units unless said otherwise.

    Parameters
    ----------
    intensity_range
        The range that PSNR and SSIM are stated for; values outside it are clipped first.
    psnr_db
        Lowest of the slices'; infinite where nothing changed.
    ssim
        Lowest of the slices' means (window 11 x 11).
    mean_shift
        Largest absolute shift of a slice's mean over the foreground.
    largest_change
        Largest absolute change of a voxel.
    changed_share
        Changed voxels of the foreground.
    slices
        The same numbers for each slice.
    """

    intensity_range: tuple[float, float]
    psnr_db: float
    ssim: float
    mean_shift: float
    largest_change: float
    changed_share: float
    slices: tuple[SliceFidelity, ...] = ()


def measure(
    source: NDArray[np.float32],
    protected: NDArray[np.float32],
    mask: Booleans,
    intensity_range: tuple[float, float],
) -> Fidelity:
    """Return the fidelity of a volume.

    Parameters
    ----------
    source, protected
        Modality values, (slices, rows, columns).
    mask
        Foreground, same shape.
    intensity_range
        Modality values that count as black and white.
    """
    difference = protected - source
    slices = tuple(
        _of_slice(source[index], protected[index], difference[index][inside], intensity_range)
        for index, inside in enumerate(mask)
    )
    return Fidelity(
        intensity_range=intensity_range,
        psnr_db=min(one.psnr_db for one in slices),
        ssim=min(one.ssim for one in slices),
        mean_shift=max(abs(one.mean_shift) for one in slices),
        largest_change=float(np.abs(difference).max(initial=0.0)),
        changed_share=np.count_nonzero(difference) / max(int(mask.sum()), 1),
        slices=slices,
    )


def _of_slice(
    source: NDArray[np.float32],
    protected: NDArray[np.float32],
    inside: NDArray[np.float32],
    intensity_range: tuple[float, float],
) -> SliceFidelity:
    """Return the numbers of one slice; `inside` is the change of its foreground voxels."""
    before, after = _scaled(source, intensity_range), _scaled(protected, intensity_range)
    shift = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
    return SliceFidelity(_psnr(after, before), _ssim(after, before), shift)


def _psnr(after: torch.Tensor, before: torch.Tensor) -> float:
    return float(torch.as_tensor(PSNRMetric(max_val=1.0)(after, before)))


def _ssim(after: torch.Tensor, before: torch.Tensor) -> float:
    """Return the mean SSIM of a slice; images smaller than the window take a smaller one."""
    window = min(11, *(size - 1 + size % 2 for size in after.shape[-2:]))
    metric = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=window)
    return float(torch.as_tensor(metric(after, before)))


def _scaled(values: NDArray[np.float32], intensity_range: tuple[float, float]) -> torch.Tensor:
    low, high = intensity_range
    return torch.from_numpy(np.clip((values - low) / (high - low), 0, 1))[None, None]
