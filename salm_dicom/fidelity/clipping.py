"""Voxels that came to lie at an end of the range, where a part of their value is lost."""

from __future__ import annotations

from collections.abc import Iterator

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.subject import Reading, Subject


def clipping(subject: Subject) -> Iterator[Reading]:
    """Yield how many voxels came to lie at an end of the range, and the slice with most of them.

    Ends are the least and the largest value that *Bits Stored* hold, and those that the source
    uses, its padding aside. Voxels that lay at an end before are not counted: they were clipped by
    whoever made the image.
    """
    if not subject.mask.any():
        raise Unmeasurable("no foreground was found")
    counts = [one.clipped for one in subject.changes]
    most = max(counts)
    yield Reading(
        name="clipped", value=float(sum(counts)), unit="voxels",
        at=f"slice {counts.index(most) + 1}" if most else "",
    )  # fmt: skip
