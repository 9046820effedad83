"""A channelised Hotelling observer: whether a faint disc can still be found in the noise.

The observer knows disc and place, and sees patches through Laguerre-Gauss channels, as models of
human readers do. Its detectability is d'^2 = s^T K^-1 s, with s the channels' response to the disc
and K their covariance over patches of the image, and the area under its ROC curve is
Phi(d' / sqrt 2). The disc's contrast is chosen so that the source gives 0.85: what is reported is
how far the protected image, with the same disc, is from that.

References
----------
Gallas & Barrett, *Validating the use of channels to estimate the ideal linear observer*, Journal of
the Optical Society of America A 20 (2003). Barrett & Myers, *Foundations of Image Science*, 13-14.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import pi
from statistics import NormalDist

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.noise import is_homogeneous
from salm_dicom.fidelity.spectrum import flat
from salm_dicom.fidelity.squares import tiled
from salm_dicom.fidelity.subject import Reading, Subject
from salm_dicom.volume import Floats

# Patches that hold a disc with some room around it, and their fewest voxels across.
_SIDE_MM, _SIDE = 16.0, 16
_DISC_MM = 6.0
_CHANNELS = 6
_AUC = 0.85
# Fewer patches than this per channel leave the covariance unknown.
_PATCHES = 10
_NORMAL = NormalDist()


def observer(subject: Subject) -> Iterator[Reading]:
    """Yield how far the area under the observer's ROC curve moved, over all slices."""
    before, after = _patches(subject)
    if len(before) < _PATCHES * _CHANNELS:
        raise Unmeasurable(
            f"{len(before)} patches of {_SIDE_MM:g} mm are homogeneous foreground; "
            f"{_PATCHES * _CHANNELS} are needed"
        )
    rows, columns = before.shape[1:]
    channels = laguerre_gauss(rows, columns, subject.spacing_mm)
    signal = channels @ disc(rows, columns, subject.spacing_mm).ravel()
    found, found_after = (
        detectability(patches.reshape(len(patches), -1) @ channels.T, signal)
        for patches in (before, after)
    )
    wanted = np.sqrt(2) * _NORMAL.inv_cdf(_AUC)
    moved = auc(wanted * found_after / found) - _AUC
    yield Reading(name="observer_auc", value=abs(moved), unit="", where=f"disc of {_DISC_MM:g} mm")


def detectability(responses: Floats, signal: Floats) -> float:
    """Return d' of a signal whose channel response is known.

    Parameters
    ----------
    responses
        Of the channels to patches without the signal, (patches, channels).
    signal
        Of the channels to the signal alone, (channels,).
    """
    covariance = np.cov(responses, rowvar=False)
    return float(np.sqrt(signal @ np.linalg.solve(covariance, signal)))


def auc(d: float) -> float:
    """Return the area under the ROC curve of an observer with Gaussian responses."""
    return _NORMAL.cdf(d / np.sqrt(2))


def disc(rows: int, columns: int, spacing_mm: tuple[float, float]) -> Floats:
    """Return 1 in a disc in the middle of a patch, without the mean and slope of the patch."""
    image = (_radius_mm(rows, columns, spacing_mm) <= _DISC_MM / 2).astype(np.float32)
    return np.asarray(flat(image[None])[0])


def laguerre_gauss(rows: int, columns: int, spacing_mm: tuple[float, float]) -> Floats:
    """Return the channels, (channels, rows * columns), as wide as the disc."""
    # 2 pi r^2 / a^2 with a such that the first channel ends about where the disc does
    place = 2 * pi * _radius_mm(rows, columns, spacing_mm) ** 2 / (1.5 * _DISC_MM) ** 2
    polynomials = [
        np.polynomial.laguerre.lagval(place, np.eye(_CHANNELS)[order]) for order in range(_CHANNELS)
    ]
    channels = flat(np.stack(polynomials * np.exp(-place / 2)).astype(np.float32))
    return np.asarray(channels.reshape(_CHANNELS, -1))


def _radius_mm(rows: int, columns: int, spacing_mm: tuple[float, float]) -> Floats:
    y, x = (
        (np.arange(size) - (size - 1) / 2) * mm
        for size, mm in zip((rows, columns), spacing_mm, strict=True)
    )
    return np.asarray(np.hypot(y[:, None], x))


def _patches(subject: Subject) -> tuple[Floats, Floats]:
    """Return homogeneous patches before and after, (patches, rows, columns), without mean."""
    rows, columns = (max(_SIDE, round(_SIDE_MM / mm)) for mm in subject.spacing_mm)
    parts: tuple[list[Floats], list[Floats]] = ([], [])
    for index in range(len(subject)):
        full = tiled(subject.mask[index][subject.box], rows, columns).all(axis=1)
        for part, at in zip(parts, (subject.source_at, subject.protected_at), strict=True):
            patches = tiled(at(index, subject.box), rows, columns)[full]
            part.append(flat(patches.reshape(-1, rows, columns)))
    before, after = (np.concatenate(part) for part in parts)
    variance = np.square(before).mean(axis=(1, 2))
    chosen = is_homogeneous(variance) & (variance > 0)
    return before[chosen], after[chosen]
