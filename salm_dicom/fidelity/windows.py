"""PSNR, SSIM and VIF in clinical windows, against the JPEG 2000 image that readers accept.

A number of decibels says little by itself. The same slice, compressed as far as a consensus
conference allows for diagnosis, sets the limit for each slice and window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode, encode_array

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.structure import ssims, vifs
from salm_dicom.fidelity.subject import Reading, Slice, Subject, Window
from salm_dicom.volume import Integers, StoredPixels

# A window that shows less than this share of the foreground as grey says nothing of a slice.
_GREY = 0.05
# Rows and columns that five levels of a wavelet need.
_SMALLEST = 32
_MOST_BITS = 16
_MONOCHROME = 2  # openjpeg's number for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How like the source one image of a slice is in a window."""

    psnr: float
    ssim: float
    least_ssim: float
    vif: float


def against_jpeg2000(subject: Subject) -> Iterator[Reading]:
    """Yield what is lost in each clinical window, and how much more JPEG 2000 would lose.

    `vif`, `window_psnr`, `window_ssim`, `least_ssim` are of the protected image, lowest of the
    slices; the `_margin` of each is what it has above the compressed image, lowest of the slices.
    Slices are compressed whole, padding as air, and then cut to the rows and columns of the
    foreground: what cannot differ would dilute a mean.

    References
    ----------
    Loose et al., *Compression of digital images in radiology: results of a consensus conference*,
    RoeFo 181 (2009) 32-37: the ratios. Mason et al., *Comparison of objective image quality metrics
    to expert radiologists' scoring of diagnostic quality of MR images*, IEEE Transactions on
    Medical Imaging 39 (2020) 1064-1072: VIF agrees with readers more than SSIM and RMSE do.
    """
    if min(subject.mask.shape[1:]) < _SMALLEST:
        raise Unmeasurable(f"images of less than {_SMALLEST} rows or columns have no JPEG 2000")
    worst: dict[tuple[str, str], tuple[float, int]] = {}
    for index, found in zip(subject.samples, subject.of_samples(likeness_of), strict=True):
        for place, value in found:
            worst[place] = min(worst.get(place, (np.inf, index)), (value, index))
    if not worst:
        raise Unmeasurable("no clinical window shows the foreground")
    units = {"window_psnr": "dB", "psnr_margin": "dB"}
    for (name, window_name), (value, index) in worst.items():
        yield Reading(
            name=name, value=value, unit=units.get(name, ""), where=f"{window_name} window",
            at=f"slice {index + 1}",
        )  # fmt: skip


def likeness_of(subject: Subject, index: int) -> list[tuple[tuple[str, str], float]]:
    """Return each number of each window that shows enough of a slice, by number and window."""
    found = []
    source, protected = (at(index, subject.box) for at in (subject.source_at, subject.protected_at))
    anchor = _mapped(subject, index, _compressed(_filled(subject.pixels.at(index)), subject.ratio))
    inside = subject.mask[index][subject.box]
    for window in subject.views:
        if not _shows_enough(window, source[inside]):
            continue
        shown = window.shown(source)
        ours, theirs = _likenesses(shown, [window.shown(one) for one in (protected, anchor)])
        found += [((name, window.name), value) for name, value in _numbers(ours, theirs)]
    return found


def _numbers(ours: Likeness, theirs: Likeness) -> Iterator[tuple[str, float]]:
    yield "window_psnr", ours.psnr
    yield "window_ssim", ours.ssim
    yield "least_ssim", ours.least_ssim
    yield "vif", ours.vif
    yield "psnr_margin", np.inf if np.isinf(ours.psnr) else ours.psnr - theirs.psnr
    yield "ssim_margin", ours.ssim - theirs.ssim
    yield "least_ssim_margin", ours.least_ssim - theirs.least_ssim
    yield "vif_margin", ours.vif - theirs.vif


def _shows_enough(window: Window, values: Slice) -> bool:
    grey = np.count_nonzero((values > window.low) & (values < window.high))
    return bool(grey > _GREY * values.size) and values.size > 0


def _likenesses(source: Slice, others: Sequence[Slice]) -> Iterator[Likeness]:
    """Yield how like the source each of several images of a slice is."""
    locals_, information = ssims(source, others), vifs(source, others)
    for other, local, vif in zip(others, locals_, information, strict=True):
        apart = (source - other).ravel()
        error = float(np.dot(apart, apart)) / apart.size
        yield Likeness(
            psnr=float(-10 * np.log10(error)) if error else np.inf,
            ssim=float(local.mean(dtype=np.float64)),
            least_ssim=float(local.min()),
            vif=vif,
        )


def _filled(one: StoredPixels) -> Integers:
    """Return the stored values of a slice with its least real value where padding is.

    A cliff of padding would cost the codec bits that then fail the anatomy, and loosen the limit.
    """
    values: Integers = one.values[0]
    is_padding = one.is_padding()[0]
    if not is_padding.any() or is_padding.all():
        return values
    return np.asarray(np.where(is_padding, values[~is_padding].min(), values))


def _compressed(stored: Integers, ratio: float) -> NDArray[np.int64]:
    """Return stored values after irreversible JPEG 2000 at a ratio to the bits that they need."""
    least = int(stored.min())
    bits = max((int(stored.max()) - least).bit_length(), 2)
    if bits > _MOST_BITS:
        raise Unmeasurable(f"slices that need more than {_MOST_BITS} bits have no JPEG 2000")
    try:
        data = encode_array(
            (stored.astype(np.int64) - least).astype(np.uint16),
            bits_stored=bits,
            photometric_interpretation=_MONOCHROME,
            compression_ratios=[ratio],
            codec_format=0,
        )
        found: NDArray[np.int64] = decode(bytes(data)).astype(np.int64) + least
    except RuntimeError as error:
        raise Unmeasurable("the JPEG 2000 library refuses a slice of this volume") from error
    return found


def _mapped(subject: Subject, index: int, stored: NDArray[np.int64]) -> Slice:
    pixels = subject.pixels
    stored = stored[subject.box]
    mapped: Slice = (stored * pixels.slope[index] + pixels.intercept[index]).astype(np.float32)
    return mapped
