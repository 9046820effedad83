"""How like two images are: local SSIM, and visual information fidelity in the pixel domain.

Both are made of Gaussian means, here along rows and columns in turn, where library code convolves
with the whole square: a thirtieth of the time. Tests hold them to scikit-image and sewar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from salm_dicom.fidelity.gaussian import Gaussian, Image, means

# Mean of the source and of the other, their variances, and covariance, around each place.
Moments = tuple[Image, Image, Image, Image, Image]

# Wang et al.: a window of 11 with SD 1.5, and what keeps the quotient from 0 / 0.
_SSIM_TAPS, _SSIM_SD = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Sheikh & Bovik: four scales, and the variance of the eye's own noise for values of 0..255.
_SCALES = 4
_EYE = 2.0 / 255**2
_TINY = 1e-10


def ssim(source: Image, other: Image) -> Image:
    """Return SSIM of every place where the window fits into images with values in [0, 1].

    Images smaller than the window take a smaller one.

    References
    ----------
    Wang et al., *Image quality assessment: from error visibility to structural similarity*, IEEE
    Transactions on Image Processing 13 (2004).
    """
    return ssims(source, (other,))[0]


def ssims(source: Image, others: Sequence[Image]) -> list[Image]:
    """Return `ssim` of a source and each of several images of it."""
    window = Gaussian(taps_for(source.shape), _SSIM_SD)
    return [_ssim(found) for found in _moments(source, others, window)]


def _ssim(moments: Moments) -> Image:
    mean, mean_other, variance, variance_other, covariance = moments
    found: Image = (2 * mean * mean_other + _C1) * (2 * covariance + _C2)
    found /= (mean**2 + mean_other**2 + _C1) * (variance + variance_other + _C2)
    return found


def taps_for(shape: tuple[int, ...]) -> int:
    """Return the side of the window of SSIM: 11, or what fits."""
    return min(_SSIM_TAPS, *(size - 1 + size % 2 for size in shape))


def vif(source: Image, other: Image) -> float:
    """Return visual information fidelity of images with values in [0, 1]; 1 is the source itself.

    Images too small for all scales take those that fit; without any it is 1.

    References
    ----------
    Sheikh & Bovik, *Image information and visual quality*, IEEE Transactions on Image Processing
    15 (2006), in the pixel domain as its authors published it.
    """
    return vifs(source, (other,))[0]


def vifs(source: Image, others: Sequence[Image]) -> list[float]:
    """Return `vif` of a source and each of several images of it."""
    there, kept = 0.0, [0.0] * len(others)
    if source.min() == source.max():
        return [1.0] * len(others)
    for scale in range(1, _SCALES + 1):
        taps = 2 ** (_SCALES - scale + 1) + 1
        window = Gaussian(taps, taps / 5)
        if scale > 1:
            if min(source.shape) < taps:
                break
            source, *others = (means(image, window, 2) for image in (source, *others))
        if min(source.shape) < taps:
            break
        for index, (_, _, variance, variance_other, covariance) in enumerate(
            _moments(source, others, window)
        ):
            gain, rest = _channel(variance, variance_other, covariance)
            kept[index] += _information(gain**2 * variance / (rest + _EYE))
            there += 0 if index else _information(variance / _EYE)
    return [one / there if there > 0 else 1.0 for one in kept]


def _information(ratio: Image) -> float:
    return float(np.log10(1 + ratio).sum(dtype=np.float64))


def _channel(variance: Image, variance_other: Image, covariance: Image) -> tuple[Image, Image]:
    """Return gain and added variance of the channel that turns one image into the other."""
    variance, variance_other = np.maximum(variance, 0), np.maximum(variance_other, 0)
    gain = covariance / (variance + _TINY)
    # nothing is carried where there is nothing to carry, nowhere to, or its negative
    gain *= (gain > 0) & (variance >= _TINY) & (variance_other >= _TINY)
    rest = variance_other - gain * covariance
    return gain, np.maximum(rest, _TINY, out=rest)


def _moments(source: Image, others: Sequence[Image], window: Gaussian) -> Iterator[Moments]:
    """Yield for each image means, variances and covariance around each place."""
    mean = means(source, window)
    variance = _beyond(means(source * source, window), mean, mean)
    for other in others:
        mean_other = means(other, window)
        variance_other = _beyond(means(other * other, window), mean_other, mean_other)
        covariance = _beyond(means(source * other, window), mean, mean_other)
        yield mean, mean_other, variance, variance_other, covariance


def _beyond(square: Image, one: Image, other: Image) -> Image:
    """Return what the mean of a product has beyond the product of the means, in its place."""
    square -= one * other
    return square
