"""What changed in a volume, in numbers: PSNR and SSIM in a stated range, shift, largest change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import PSNRMetric, SSIMMetric
from numpy.typing import NDArray

from salm_dicom.volume import Booleans


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
    """

    intensity_range: tuple[float, float]
    psnr_db: float
    ssim: float
    mean_shift: float
    largest_change: float
    changed_share: float


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
    psnr, ssim, shift = [], [], []
    difference = protected - source
    for index in range(len(source)):
        before = _scaled(source[index], intensity_range)
        after = _scaled(protected[index], intensity_range)
        psnr.append(_psnr(after, before))
        ssim.append(_ssim(after, before))
        inside = difference[index][mask[index]]
        shift.append(abs(float(inside.mean(dtype=np.float64))) if inside.size else 0.0)
    return Fidelity(
        intensity_range=intensity_range,
        psnr_db=min(psnr),
        ssim=min(ssim),
        mean_shift=max(shift),
        largest_change=float(np.abs(difference).max(initial=0.0)),
        changed_share=np.count_nonzero(difference) / max(int(mask.sum()), 1),
    )


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
