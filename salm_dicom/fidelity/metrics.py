"""METRICS: what can be measured of a volume; and its Fidelity, all of it in numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.clipping import clipping
from salm_dicom.fidelity.features import radiomics
from salm_dicom.fidelity.measures import DEFAULT_ROWS
from salm_dicom.fidelity.noise import contrast, noise
from salm_dicom.fidelity.observer import observer
from salm_dicom.fidelity.segmentation import segmentation
from salm_dicom.fidelity.shifts import shifts, tissue_shift, window_shifts
from salm_dicom.fidelity.spectrum import spectrum
from salm_dicom.fidelity.squares import squares_of
from salm_dicom.fidelity.structure import ssim, taps_for
from salm_dicom.fidelity.subject import Look, Reading, Subject
from salm_dicom.fidelity.visible import steps_of, visibility
from salm_dicom.fidelity.windows import against_jpeg2000, likeness_of


@dataclass(frozen=True, slots=True)
class Metric:
    """What measures one or more rows of `ROWS`.

    It yields readings whose names are in `MEASURES`, the same ones for the same subject, or raises
    `Unmeasurable`; of a subject that did not change it yields what no limit can miss.

    Parameters
    ----------
    slices, samples
        The looks that it takes at each slice, and at each of `Subject.samples`.
    """

    rows: tuple[int, ...]
    measure: Callable[[Subject], Iterable[Reading]]
    slices: tuple[Look[Any], ...] = ()
    samples: tuple[Look[Any], ...] = ()


# Row 1, and of row 2 all but the clipped voxels, are no numbers: see `dicom.conformance`.
METRICS: dict[str, Metric] = {
    "clipping": Metric((2,), clipping),
    "shifts": Metric((3,), shifts, slices=(window_shifts, tissue_shift)),
    "noise": Metric((4,), noise, slices=(squares_of,)),
    "spectrum": Metric((5,), spectrum),
    "contrast": Metric((6,), contrast, slices=(squares_of,)),
    "windows": Metric((7, 8), against_jpeg2000, samples=(likeness_of,)),
    "visibility": Metric((9,), visibility, samples=(steps_of,)),
    "segmentation": Metric((10,), segmentation),
    "radiomics": Metric((11,), radiomics),
    "observer": Metric((12,), observer),
}


@dataclass(frozen=True, slots=True)
class SliceFidelity:
    """PSNR in dB, the signed shift of the foreground mean, and SSIM where it was looked at."""

    psnr_db: float
    mean_shift: float
    ssim: float | None = None


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
        Lowest of the means (window 11 x 11) of the slices that are looked at closely.
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


def measure(subject: Subject, rows: Collection[int] = DEFAULT_ROWS) -> Fidelity:
    """Return the fidelity of a volume.

    Parameters
    ----------
    rows
        What is measured, of `ROWS`; PSNR, SSIM and the shift of each slice always are.
    """
    asked = [metric for metric in METRICS.values() if set(metric.rows) & set(rows)]
    looks = (look for metric in asked for look in metric.slices)
    subject.take([Subject.change_of, *looks], range(len(subject)))
    looks = (look for metric in asked for look in metric.samples)
    subject.take([*looks, mean_ssim], subject.samples)
    slices = tuple(_slices(subject))
    slopes = np.abs(subject.pixels.slope).tolist()
    changes = subject.changes
    foreground = sum(one.foreground for one in changes)
    readings = [*_overall(subject, slices)]
    unmeasured = []
    for metric in asked:
        try:
            readings += metric.measure(subject)
        except Unmeasurable as error:
            unmeasured += [(row, str(error)) for row in metric.rows]
    return Fidelity(
        intensity_range=subject.intensity_range,
        psnr_db=min(one.psnr_db for one in slices),
        ssim=_least_ssim(slices),
        mean_shift=max(abs(one.mean_shift) for one in slices),
        largest_change=max(one.largest * by for one, by in zip(changes, slopes, strict=True)),
        changed_share=sum(one.changed for one in changes) / max(foreground, 1),
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
    yield Reading(name="ssim", value=_least_ssim(slices), unit="", where=span)


def _least_ssim(slices: Iterable[SliceFidelity]) -> float:
    return min(one.ssim for one in slices if one.ssim is not None)


def _slices(subject: Subject) -> Iterator[SliceFidelity]:
    """Yield the numbers of each slice."""
    rows, columns = subject.mask.shape[1:]
    closely = dict(zip(subject.samples, subject.of_samples(mean_ssim), strict=True))
    for index, one in enumerate(subject.changes):
        error = one.shown_squares / (rows * columns)
        slope = float(subject.pixels.slope[index])
        yield SliceFidelity(
            psnr_db=float(-10 * np.log10(error)) if error else np.inf,
            mean_shift=slope * one.inside / max(one.foreground, 1),
            ssim=closely.get(index),
        )


def mean_ssim(subject: Subject, index: int) -> float:
    """Return the mean SSIM of a slice; beyond the reach of the foreground nothing can differ."""
    rows, columns = subject.mask.shape[1:]
    taps = taps_for((rows, columns))
    box = tuple(slice(max(0, part.start - taps), part.stop + taps) for part in subject.box)
    before, after = (
        subject.shown(index, values[index][box])
        for values in (subject.pixels.values, subject.after)
    )
    lost = float((1 - ssim(before, after)).sum(dtype=np.float64))
    places: int = (rows - taps + 1) * (columns - taps + 1)
    return 1 - lost / places
