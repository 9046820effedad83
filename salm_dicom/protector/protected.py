"""Protected: what a protector found for a volume, or for the volumes of one multi-frame file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from salm_dicom import plots
from salm_dicom.errors import NoChange
from salm_dicom.foreground import outline
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Booleans, Integers, Volume


class Anatomy(Protocol):
    """Where anatomy is, slice by slice: an `Outline`, or several."""

    def at(self, index: int) -> Booleans:
        """Return the mask of one slice, (rows, columns)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """What a protector found for one volume: stored units to add, the foreground, the record."""

    source: Volume
    delta: Integers
    outline: Anatomy
    record: ProtectionRecord

    @property
    def mask(self) -> Booleans:
        """Where a voxel may differ, shape of `delta`."""
        return np.stack([self.outline.at(index) for index in range(len(self.delta))])

    @property
    def volume(self) -> Volume:
        """The protected volume."""
        return replace(self.source, pixels=self.source.pixels.shifted(self.delta))

    def plot(self, index: int | None = None, *, window: tuple[float, float] | None = None) -> Any:
        """Return a matplotlib figure of one slice: source, protected, difference.

        Parameters
        ----------
        index
            Slice; the one that changed most if none is named.
        window
            Modality values that are black and white, in source and protected.

        Raises
        ------
        PlanError
            matplotlib is not installed.
        """
        count = len(self.delta)
        most = int(np.argmax([np.square(one.astype(np.float32)).sum() for one in self.delta]))
        at = most if index is None else plots.slice_at(index, count)
        source = self.source.picture(at, window, "source")
        change = self.delta[at] * self.source.pixels.slope[at]
        largest = max(float(np.abs(change).max()), 1e-9)
        difference = plots.Picture(
            title="difference",
            values=change,
            window=(-largest, largest),
            unit=self.source.units,
            colours=plots.SIGNED,
        )
        protected = replace(source, title="protected", values=source.values + change)
        name = f"{self.source.modality}, slice {at + 1} of {count}, {self.record.method}"
        return plots.pictures([source, protected, difference], self.source.aspect, name)

    def histogram(self) -> Any:
        """Return a matplotlib figure of the change in the foreground, stored units."""
        return plots.histogram(
            self.delta[self.mask], title="change in the foreground", xlabel="stored units"
        )

    def curves(self) -> Any:
        """Return a matplotlib figure by slice: PSNR, shift of the mean, share of changed voxels."""
        from salm_dicom.fidelity import Subject, measure  # not for every job of a run

        rows, columns = np.linalg.norm(self.source.affine[:3, 1::-1], axis=0).tolist()
        mask = self.mask
        subject = Subject(
            pixels=self.source.pixels,
            after=self.volume.pixels.values,
            mask=mask,
            spacing_mm=(rows, columns),
            modality=self.source.modality,
            intensity_range=self.record.intensity_range,
        )
        found = measure(subject, rows=()).slices
        inside = np.maximum(mask.sum(axis=(1, 2)), 1)
        changed = 100 * np.count_nonzero(self.delta, axis=(1, 2)) / inside
        return plots.curves(
            {
                "PSNR, dB": [one.psnr_db for one in found],
                f"mean shift, {self.source.units}": [one.mean_shift for one in found],
                "changed, % of foreground": changed.tolist(),
            },
            title=f"{self.source.modality}, {self.record.method}, by slice",
        )

    def _repr_html_(self) -> str:
        """Return the record and the slice that changed most, for notebooks."""
        record = self.record
        facts = {
            "method, extent": f"{record.method}, {record.extent}",
            "budget": f"{record.budget_modality:.4g} {record.units}",
            "largest change": f"{record.largest_change_modality:.4g} {record.units}",
            "changed voxels of the foreground": f"{100 * record.changed_share:.1f} %",
            "warnings": "; ".join(record.warnings) or "none",
        }
        return plots.as_html(facts, plots.if_installed(self.plot))


class _Outlines:
    """The foregrounds of volumes that follow one another, as one stack."""

    def __init__(self, parts: Sequence[tuple[Anatomy, int]]) -> None:
        self._places = [(part, index) for part, slices in parts for index in range(slices)]

    def at(self, index: int) -> Booleans:
        part, inside = self._places[index]
        return part.at(inside)


def each(volume: Volume, apply: Callable[[Volume, int], Protected]) -> Protected:
    """Return what `apply` finds for each volume of a multi-frame file, joined.

    A volume that cannot be changed stays as it is, with a warning.

    Parameters
    ----------
    apply
        Given a volume and its number, from 1.

    Raises
    ------
    NoChange
        None of them can be changed.
    """
    deltas: list[Integers] = []
    outlines: list[tuple[Anatomy, int]] = []
    records: list[tuple[ProtectionRecord, int]] = []
    warnings: list[str] = []
    for number, one in enumerate(volume.volumes(), start=1):
        values, anatomy = one.pixels.values, None
        try:
            found = apply(one, number)
            delta, anatomy = found.delta, found.outline
            records.append((found.record, delta.size))
        except NoChange as error:
            delta = np.zeros(values.shape, dtype=np.int8)
            anatomy = outline(one.pixels, one.modality, one.photometric)
            warnings.append(f"W_PART: volume {number} of the file stays as it is: {error}")
        deltas.append(delta)
        outlines.append((anatomy, len(values)))
    if not records:
        raise NoChange(warnings[0])
    record = _joined(records, volume.pixels.values.size)
    return Protected(
        source=volume,
        delta=np.concatenate(deltas),
        outline=_Outlines(outlines),
        record=replace(record, warnings=tuple(dict.fromkeys([*record.warnings, *warnings]))),
    )


def _joined(found: Sequence[tuple[ProtectionRecord, int]], voxels: int) -> ProtectionRecord:
    """Return one record for all volumes: largest budgets and changes, shares of all voxels."""
    done = [record for record, _ in found]
    inside = [record.foreground_share * size for record, size in found]
    changed = sum(r.changed_share * n for r, n in zip(done, inside, strict=True))
    lows, highs = zip(*(r.intensity_range for r in done), strict=True)
    return replace(
        done[0],
        extent="volume" if all(r.extent == "volume" for r in done) else "slice",
        epsilon=max(r.epsilon for r in done),
        budget_modality=max(r.budget_modality for r in done),
        budget_stored=max(r.budget_stored for r in done),
        intensity_range=(min(lows), max(highs)),
        foreground_share=sum(inside) / voxels,
        changed_share=changed / sum(inside),
        largest_change_stored=max(r.largest_change_stored for r in done),
        largest_change_modality=max(r.largest_change_modality for r in done),
        warnings=tuple(warning for record in done for warning in record.warnings),
    )
