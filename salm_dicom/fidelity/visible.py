"""Just noticeable differences of a change in clinical windows, and the change beside the noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.grayscale import jnds_of_display
from salm_dicom.fidelity.subject import Reading, Slice, Subject
from salm_dicom.volume import Booleans, Floats

# A display for diagnosis with its ambient light: the project's choice, 350 times black.
_BLACK_CD, _WHITE_CD = 1.0, 350.0
_PERCENTILE = 99.9
# Side of the square that the noise around a voxel is taken from.
_AROUND_MM, _AROUND = 5.0, 5


def visibility(subject: Subject) -> Iterator[Reading]:
    """Yield the 99.9th percentile of the foreground's change, in two units.

    `jnd` is in just noticeable differences of a calibrated display of 1 to 350 cd/m2, for each
    clinical window; `change_to_noise` in SD of the source in 5 mm around the voxel. A JND is what
    is just seen of a large even pattern without noise: single voxels are seen less.

    References
    ----------
    PS3.14.
    """
    if not subject.mask.any():
        raise Unmeasurable("no foreground was found")
    worst: dict[str, tuple[float, int]] = {}
    for index, found in zip(subject.samples, subject.of_samples(steps_of), strict=True):
        for name, value in found:
            worst[name] = max(worst.get(name, (0.0, index)), (value, index))
    for name, (value, index) in worst.items():
        yield Reading(
            name="jnd" if name else "change_to_noise",
            value=value,
            unit="JND" if name else "SD",
            where=f"{name} window" if name else "",
            at=f"slice {index + 1}",
        )


def steps_of(subject: Subject, index: int) -> list[tuple[str, float]]:
    """Return the percentile of a slice in JND for each window, and without a name in SD."""
    whole = jnds_of_display(_BLACK_CD, _WHITE_CD)
    inside = subject.mask[index][subject.box]
    if not inside.any():
        return []
    source, protected = (at(index, subject.box) for at in (subject.source_at, subject.protected_at))
    found = []
    for window in subject.views:
        steps = np.abs(window.shown(protected) - window.shown(source))[inside]
        found.append((window.name, whole * _percentile(steps)))
    return [*found, ("", _percentile(_to_noise(subject, source, protected, inside)))]


def _percentile(values: Slice) -> float:
    return float(np.percentile(values, _PERCENTILE)) if values.size else 0.0


def _to_noise(subject: Subject, source: Slice, protected: Slice, inside: Booleans) -> Slice:
    """Return the absolute change of each foreground voxel in SD of the source around it.

    Where the source is flat to the last unit, that unit is its noise.
    """
    rows, columns = (max(_AROUND, round(_AROUND_MM / mm) | 1) for mm in subject.spacing_mm)
    centre = source - source[inside].mean(dtype=np.float64).astype(np.float32)
    mean, square = (_mean(values, rows, columns) for values in (centre, centre**2))
    variance = np.maximum(square - mean**2, 0)
    unit = float(np.abs(subject.pixels.slope).min())
    sd = np.maximum(np.sqrt(variance), unit / np.sqrt(12))
    ratio: Slice = (np.abs(protected - source) / sd)[inside].astype(np.float32)
    return ratio


def _mean(values: Slice, rows: int, columns: int) -> Floats:
    """Return the mean of the square around each voxel; at the edge of what is there."""
    edges = [(side // 2, side // 2) for side in (rows, columns)]
    padded = np.pad(values.astype(np.float64), edges, mode="reflect")
    total = np.zeros((padded.shape[0] + 1, padded.shape[1] + 1))
    np.cumsum(np.cumsum(padded, axis=0), axis=1, out=total[1:, 1:])
    down = total[rows:] - total[:-rows]
    return np.asarray((down[:, columns:] - down[:, :-columns]) / (rows * columns))
