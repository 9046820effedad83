"""Images: what victims learn from and are measured on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Images or volumes of one channel, with labels or masks.

    Parameters
    ----------
    pixels
        (n, 1, rows, columns) or (n, 1, slices, rows, columns), float32, 0 to 1.
    labels
        int64: (n,), from 0; or for each label whether it holds, (n, labels), 0 or 1; or masks of
        classes, shape of `pixels`, 0 for none.
    """

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """What a victim learns from and is measured on.

    Parameters
    ----------
    train
        Protected images, or clean ones for the reference.
    validation
        Protected like `train`.
    clean_validation, test
        Never protected.
    clean_train
        `train` without protection, in its order; used by countermeasures that mix in clean images.
    protected_test
        `test` with protection, in its order.
    """

    train: Images
    validation: Images
    clean_validation: Images
    test: Images
    clean_train: Images | None = None
    protected_test: Images | None = None
