"""Noise power spectrum of homogeneous squares: how much noise, and how fine it is.

Fifteen lines of Fourier transform. pylinac's are the same (tests hold both to Parseval), but since
3.24 pylinac wants a pydicom that is older than the one this package is built on.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.noise import is_homogeneous
from salm_dicom.fidelity.squares import tiled
from salm_dicom.fidelity.subject import Reading, Slice, Subject
from salm_dicom.volume import Floats

# Side of a square, and the fewest voxels on it.
_SIDE_MM, _SIDE = 16.0, 16
# Fewer squares than this in a slice say nothing of its spectrum.
_FEWEST = 4


def spectrum(subject: Subject) -> Iterator[Reading]:
    """Yield by how many percent the spectrum's integral and its mean frequency changed.

    Of the slice where it is worst. The integral is the variance of the noise: 5 % of it are 2.5 %
    of the SD. A change of texture that leaves the SD alone moves the mean frequency.

    References
    ----------
    ICRU Report 87 (2012), 11.2.
    """
    rows, columns = (max(_SIDE, round(_SIDE_MM / mm)) for mm in subject.spacing_mm)
    worst = {"nps_integral": (0.0, ""), "nps_frequency": (0.0, "")}
    measured = False
    for index in subject.samples:
        full = tiled(subject.mask[index][subject.box], rows, columns).all(axis=1)
        before, after = (
            flat(tiled(at(index, subject.box), rows, columns)[full].reshape(-1, rows, columns))
            for at in (subject.source_at, subject.protected_at)
        )
        variance = np.square(before).mean(axis=(1, 2))
        chosen = is_homogeneous(variance) & (variance > 0)
        if np.count_nonzero(chosen) < _FEWEST:
            continue
        measured = True
        spectra = [_spectrum(squares[chosen], subject.spacing_mm) for squares in (before, after)]
        for name, numbers in zip(worst, zip(*spectra, strict=True), strict=True):
            change = 100 * abs(numbers[1] / numbers[0] - 1)
            worst[name] = max(worst[name], (change, f"slice {index + 1}"))
    if not measured:
        raise Unmeasurable(
            f"no slice has {_FEWEST} squares of {_SIDE_MM:g} mm that are homogeneous foreground"
        )
    for name, (value, at) in worst.items():
        yield Reading(name=name, value=value, unit="%", at=at)


def flat(squares: Slice) -> Floats:
    """Return squares, (squares, rows, columns), without mean and slope: what is left is noise."""
    rows, columns = squares.shape[1:]
    values = squares - squares.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    for axis, size in ((1, rows), (2, columns)):
        ramp = np.arange(size) - (size - 1) / 2
        ramp = ramp.reshape(-1, 1) if axis == 1 else ramp
        steepness = (values * ramp).mean(axis=(1, 2), keepdims=True) / np.square(ramp).mean()
        values = values - steepness * ramp
    return np.asarray(values)


def _spectrum(squares: Floats, spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """Return the integral of the spectrum, in squared modality units, and its mean frequency."""
    rows, columns = squares.shape[1:]
    area = spacing_mm[0] * spacing_mm[1]
    power = np.square(np.abs(np.fft.fft2(squares))).mean(axis=0) * area / (rows * columns)
    frequency = np.hypot(
        np.fft.fftfreq(rows, spacing_mm[0])[:, None], np.fft.fftfreq(columns, spacing_mm[1])
    )
    cell = 1 / (rows * spacing_mm[0] * columns * spacing_mm[1])
    return float(power.sum() * cell), float((power * frequency).sum() / power.sum())
