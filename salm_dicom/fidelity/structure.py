"""How like two images are: local SSIM, and visual information fidelity in the pixel domain.

Both are made of Gaussian means, here along rows and columns in turn, where library code convolves
with the whole square: a tenth of the time. Tests hold them to scikit-image and sewar.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

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
    kernel = _kernel(taps_for(source.shape), _SSIM_SD)
    mean, mean_other, variance, variance_other, covariance = _moments(source, other, kernel)
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
    kept = there = 0.0
    for scale in range(1, _SCALES + 1):
        taps = 2 ** (_SCALES - scale + 1) + 1
        kernel = _kernel(taps, taps / 5)
        if scale > 1:
            if min(source.shape) < taps:
                break
            source, other = (_means(image, kernel)[::2, ::2] for image in (source, other))
        if min(source.shape) < taps:
            break
        _, _, variance, variance_other, covariance = _moments(source, other, kernel)
        gain, rest = _channel(variance, variance_other, covariance)
        kept += float(np.log10(1 + gain**2 * variance / (rest + _EYE)).sum(dtype=np.float64))
        there += float(np.log10(1 + variance / _EYE).sum(dtype=np.float64))
    return kept / there if there > 0 else 1.0


def _channel(variance: Image, variance_other: Image, covariance: Image) -> tuple[Image, Image]:
    """Return gain and added variance of the channel that turns one image into the other."""
    variance, variance_other = np.maximum(variance, 0), np.maximum(variance_other, 0)
    gain = covariance / (variance + _TINY)
    rest = variance_other - gain * covariance
    flat = variance < _TINY
    gain[flat], rest[flat] = 0, variance_other[flat]
    empty = variance_other < _TINY
    gain[empty], rest[empty] = 0, 0
    against = gain < 0
    rest[against] = variance_other[against]
    gain[against] = 0
    return gain, np.maximum(rest, _TINY)


def _moments(source: Image, other: Image, kernel: Image) -> tuple[Image, ...]:
    """Return means, variances and covariance around each place."""
    mean, mean_other = _means(source, kernel), _means(other, kernel)
    variance = _means(source * source, kernel) - mean * mean
    variance_other = _means(other * other, kernel) - mean_other * mean_other
    covariance = _means(source * other, kernel) - mean * mean_other
    return mean, mean_other, variance, variance_other, covariance


def _means(image: Image, kernel: Image) -> Image:
    """Return the weighted mean of each window that fits, by a symmetric kernel."""
    half = len(kernel) // 2
    for axis in (0, 1):
        size = image.shape[axis] - len(kernel) + 1
        taps = [
            image[by : by + size] if axis == 0 else image[:, by : by + size]
            for by in range(len(kernel))
        ]
        total = kernel[half] * taps[half]
        both = np.empty_like(total)
        for tap in range(half):
            np.add(taps[tap], taps[-1 - tap], out=both)
            both *= kernel[tap]
            total += both
        image = total
    return image


def _kernel(taps: int, sd: float) -> Image:
    places = np.arange(taps) - taps // 2
    weights = np.exp(-(places**2) / (2 * sd**2))
    kernel: Image = (weights / weights.sum()).astype(np.float32)
    return kernel
