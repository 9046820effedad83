"""The Grayscale Standard Display Function of PS3.14: luminance and just noticeable differences."""

from __future__ import annotations

import numpy as np

from salm_dicom.volume import Floats

# PS3.14 7.1, Equation 7-1: log10 of luminance as a quotient of polynomials in ln(JND index).
_ABOVE = (-1.3011877, 8.0242636e-2, 1.3646699e-1, -2.5468404e-2, 1.3635334e-3)
_BELOW = (1.0, -2.5840191e-2, -1.0320229e-1, 2.8745620e-2, -3.1978977e-3, 1.2992634e-4)
# Equation 7-2: JND index as a polynomial in log10 of luminance.
_INDEX = (
    71.498068, 94.593053, 41.912053, 9.8247004, 0.28175407, -1.1878455, -0.18014349, 0.14710899,
    -0.017046845,
)  # fmt: skip
LEAST_INDEX, MOST_INDEX = 1, 1023


def luminance(index: Floats) -> Floats:
    """Return luminance in cd/m2 of JND indices from 1 to 1023.

    References
    ----------
    PS3.14 7.1.
    """
    logarithm = np.log(np.asarray(index, dtype=np.float64))
    above, below = (np.polynomial.polynomial.polyval(logarithm, c) for c in (_ABOVE, _BELOW))
    return np.asarray(10 ** (above / below))


def jnd_index(luminance_cd: Floats) -> Floats:
    """Return the JND index of luminances from 0.05 to 4000 cd/m2.

    References
    ----------
    PS3.14 7.1.
    """
    logarithm = np.log10(np.asarray(luminance_cd, dtype=np.float64))
    return np.asarray(np.polynomial.polynomial.polyval(logarithm, _INDEX))


def jnds_of_display(black_cd: float, white_cd: float) -> float:
    """Return how many just noticeable differences lie between black and white of a display.

    On a calibrated display equal steps of grey are equal steps of the JND index (PS3.14 7.2).
    """
    ends = jnd_index(np.array([black_cd, white_cd]))
    return float(ends[1] - ends[0])
