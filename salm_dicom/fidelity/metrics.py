"""METRICS: what can be measured of a volume; and its Fidelity, all of it in numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.regression import PSNRMetric, SSIMMetric
from numpy.typing import NDArray

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.shifts import shifts
from salm_dicom.fidelity.subject import Reading, Subject

Metric = Callable[[Subject], Iterable[Reading]]

# Row of `ROWS` -> what measures it. Rows 1 and 2 are no numbers: see `dicom.conformance`.
METRICS: dict[int, Metric] = {3: shifts}


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
    readings
        Every number that can have a limit.
    unmeasured
        Rows of which nothing could be said, each with the reason.
    """

    intensity_range: tuple[float, float]
    psnr_db: float
    ssim: float
    mean_shift: float
    largest_change: float
    changed_share: float
    slices: tuple[SliceFidelity, ...] = ()
    readings: tuple[Reading, ...] = ()
    unmeasured: tuple[tuple[int, str], ...] = ()


def measure(subject: Subject, rows: Collection[int] = frozenset(METRICS)) -> Fidelity:
    """Return the fidelity of a volume.

    Parameters
    ----------
    rows
        What is measured, keys of `METRICS`; PSNR, SSIM and the shift of each slice always are.
    """
    slices = tuple(_slices(subject))
    largest = changed = 0.0
    for index in subject.changed():
        change = subject.change_at(index)
        largest = max(largest, float(np.abs(change).max() * abs(subject.pixels.slope[index])))
        changed += np.count_nonzero(change)
    readings = [*_overall(subject, slices)]
    unmeasured = []
    for row in sorted(METRICS.keys() & set(rows)):
        try:
            readings += METRICS[row](subject)
        except Unmeasurable as error:
            unmeasured.append((row, str(error)))
    return Fidelity(
        intensity_range=subject.intensity_range,
        psnr_db=min(one.psnr_db for one in slices),
        ssim=min(one.ssim for one in slices),
        mean_shift=max(abs(one.mean_shift) for one in slices),
        largest_change=largest,
        changed_share=changed / max(int(subject.mask.sum()), 1),
        slices=slices,
        readings=tuple(readings),
        unmeasured=tuple(unmeasured),
    )


def _overall(subject: Subject, slices: Iterable[SliceFidelity]) -> Iterator[Reading]:
    """Yield PSNR and SSIM of the worst slice, within the intensity range."""
    low, high = subject.intensity_range
    unit = " HU" if subject.modality == "CT" else " modality units"
    span = f"{low:.6g}..{high:.6g}{unit}"
    yield Reading(name="psnr", value=min(s.psnr_db for s in slices), unit="dB", where=span)
    yield Reading(name="ssim", value=min(s.ssim for s in slices), unit="", where=span)


def _slices(subject: Subject) -> Iterator[SliceFidelity]:
    for index, inside in enumerate(subject.mask):
        source, protected = subject.source_at(index), subject.protected_at(index)
        yield _of_slice(source, protected, (protected - source)[inside], subject.intensity_range)


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
