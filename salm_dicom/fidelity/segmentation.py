"""Whether a segmentation model finds the same in the protected volume as in its source."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.subject import Reading, Subject


def segmentation(subject: Subject) -> Iterator[Reading]:
    """Yield Dice and the change of volume, in percent, of each label that the model finds.

    The model should not be the surrogate of the protection, whose mistakes are aimed at.
    """
    if subject.model is None:
        raise Unmeasurable("no model was named: --model PATH")
    if not subject.mask.any():
        raise Unmeasurable("no foreground was found")
    volumes = (
        np.stack([at(index) for index in range(len(subject))])
        for at in (subject.source_at, subject.protected_at)
    )
    try:
        before, after = (subject.model(values, subject.affine) for values in volumes)
    except Exception as error:  # a model is code of its own: whatever it raises is about the model
        raise Unmeasurable(f"the model fails on this volume ({type(error).__name__})") from error
    labels = np.union1d(before, after)
    labels = labels[labels != 0].tolist()
    if not labels:
        raise Unmeasurable("the model finds nothing in this volume")
    for label in labels:
        one, other = before == label, after == label
        volume, volume_after = int(one.sum()), int(other.sum())
        dice = 2 * int((one & other).sum()) / (volume + volume_after)
        change = 100 * abs(volume_after - volume) / max(volume, 1)
        yield Reading(name="dice", value=dice, unit="", where=f"label {label}")
        yield Reading(name="segment_volume", value=change, unit="%", where=f"label {label}")
