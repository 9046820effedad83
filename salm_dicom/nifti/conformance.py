"""Our own check of a protected NIfTI file against its source, from what lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from salm_dicom.errors import ParseError
from salm_dicom.nifti.image import NiftiImage
from salm_dicom.nifti.series import stored_pixels
from salm_dicom.nifti.sidecar import OURS, read_sidecar
from salm_dicom.volume import Booleans


def provenance_of(path: Path) -> dict[str, Any]:
    """Return what the sidecar of a protected file says of its making; empty if it says nothing."""
    try:
        said = read_sidecar(path).get(OURS)
    except ParseError:
        return {}
    return said if isinstance(said, dict) else {}


def check(
    source: NiftiImage,
    protected: NiftiImage,
    said: dict[str, Any],
    mask_of: Callable[[int], Booleans],
) -> Iterator[tuple[str, str]]:
    """Yield code and text of everything that is wrong; nothing is a pass.

    Parameters
    ----------
    said
        `provenance_of` the protected file.
    mask_of
        Returns the foreground of a frame, (slices, rows, columns).
    """
    if said.get("ImageSHA256") != protected.sha256:
        yield "DIGEST", "the image is not the one that its sidecar was written for"
    if protected.voxels().shape != source.voxels().shape:
        yield "SHAPE", "the protected image has another size"
        return
    if protected.with_voxels(source.voxels()).data != source.data:
        yield "BYTES", "bytes other than those of voxels differ from the source"
        return
    largest = 0
    for frame in range(len(source.voxels())):
        before, after = (stored_pixels(one, frame).values for one in (source, protected))
        change = after.astype(np.int64) - before
        largest = max(largest, int(np.abs(change).max(initial=0)))
        if (change[~mask_of(frame)] != 0).any():
            yield "BACKGROUND", f"frame {frame + 1} differs outside the foreground"
        if after.min() < before.min() or after.max() > before.max():
            yield "RANGE", f"frame {frame + 1} has values beyond those of the source"
        if not change.any():
            yield "UNCHANGED", f"frame {frame + 1} is the source's"
    yield from _stated(said, largest)


def _stated(said: dict[str, Any], largest: int) -> Iterator[tuple[str, str]]:
    """Yield what the sidecar says wrongly of the changes."""
    try:
        stated, most = int(said["LargestChange"]["Stored"]), int(said["Budget"]["Stored"])
    except (KeyError, TypeError, ValueError):
        yield "PROVENANCE", "the sidecar does not say how large changes are"
        return
    if stated != largest:
        yield "LARGEST", f"the sidecar says {stated} stored units at most; {largest} are found"
    if largest > most:
        yield "BUDGET", f"a change of {largest} stored units; the sidecar allows {most}"
