"""The pixels of one verified series in a report: what is embedded, how it is shown, its charts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from salm_dicom.batch.compared import Compared
from salm_dicom.fidelity import Check
from salm_dicom.fidelity.metrics import SliceFidelity
from salm_dicom.report import Preset, View, embed
from salm_dicom.report.charts import Chart, curve, histogram
from salm_dicom.volume import Booleans, Floats, Integers, Volume

# Level and width in HU, by the names that radiologists use.
_CT_WINDOWS = {
    "soft tissue": (40, 400), "lung": (-600, 1500), "bone": (400, 1800), "brain": (40, 80),
    "liver": (60, 160),
}  # fmt: skip
_BINS = 61
_LISTED = 20
_MEGA = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """All volumes of a series, one after the other; arrays of (slices, rows, columns)."""

    first: Volume
    volumes: int
    before: Integers
    after: Integers
    mask: Booleans
    has_after: Booleans
    slope: Floats
    intercept: Floats
    slices: tuple[SliceFidelity | None, ...]
    intensity_range: tuple[float, float] | None

    @classmethod
    def of(cls, pixels: Sequence[Compared]) -> Stack:
        """Return the stack of what was compared."""
        slices: list[SliceFidelity | None] = []
        for one in pixels:
            slices += one.fidelity.slices if one.fidelity else [None] * len(one.pair.mask)
        sources = [one.pair.source.pixels for one in pixels]
        measured = [one.fidelity for one in pixels if one.fidelity is not None]
        return cls(
            first=pixels[0].pair.source,
            volumes=len(pixels),
            before=np.concatenate([one.values for one in sources]),
            after=np.concatenate([one.pair.after for one in pixels]),
            mask=np.concatenate([one.pair.mask for one in pixels]),
            has_after=np.concatenate([one.pair.has_after for one in pixels]),
            slope=np.concatenate([one.slope for one in sources]),
            intercept=np.concatenate([one.intercept for one in sources]),
            slices=tuple(slices),
            intensity_range=measured[0].intensity_range if measured else None,
        )

    def changes(self) -> Iterator[tuple[Integers, Booleans]]:
        """Yield the change of each slice in stored units, and its foreground."""
        for before, after, inside in zip(self.before, self.after, self.mask, strict=True):
            yield after.astype(np.int64) - before, inside

    @property
    def largest_stored(self) -> int:
        """Largest absolute change of a stored value."""
        return max(int(np.abs(change).max()) for change, _ in self.changes())

    @property
    def largest(self) -> float:
        """Largest absolute change in modality units; 1 where there is none."""
        each = zip(self.changes(), self.slope, strict=True)
        return max(float(abs(slope) * np.abs(change).max()) for (change, _), slope in each) or 1.0

    @property
    def changed_outside(self) -> int:
        """Changed voxels that are no foreground."""
        return sum(int(np.count_nonzero(change[~inside])) for change, inside in self.changes())

    @property
    def worst(self) -> int:
        """Index of the slice with the lowest PSNR."""
        psnr = [np.inf if one is None else one.psnr_db for one in self.slices]
        return int(np.argmin(psnr))


def view_of(stack: Stack, cap: int) -> View:
    """Return what a page embeds of a stack, and how it shows it."""
    pixels = embed(stack.before, stack.after, cap=cap, first=stack.worst)
    kept = list(pixels.kept)
    return View(
        pixels=pixels,
        slope=tuple(stack.slope[kept].tolist()),
        intercept=tuple(stack.intercept[kept].tolist()),
        absent=tuple(np.flatnonzero(~stack.has_after[kept]).tolist()),
        units=units_of(stack),
        is_inverted=stack.first.photometric == "MONOCHROME1",
        aspect=_aspect(stack.first.affine),
        presets=tuple(presets_of(stack)),
        largest=stack.largest,
    )


def units_of(stack: Stack) -> str:
    """Return what the values of a page are in."""
    if not stack.first.photometric.startswith("MONOCHROME"):
        return "luminance"
    return "HU" if stack.first.modality == "CT" else "units"


def _aspect(affine: Floats) -> float:
    """Return width over height of a voxel."""
    width, height = (float(np.linalg.norm(affine[:3, axis])) for axis in (0, 1))
    return width / height if width > 0 and height > 0 and np.isfinite(width / height) else 1.0


def presets_of(stack: Stack) -> Iterator[Preset]:
    """Yield the windows that a page offers; what the source asks for comes first."""
    if stack.first.window is not None:
        yield Preset("DICOM window", *stack.first.window)
    if stack.first.modality == "CT":
        for name, (level, width) in _CT_WINDOWS.items():
            yield Preset(name, level - width / 2, level + width / 2)
    elif stack.intensity_range is not None:
        yield Preset("intensity range", *stack.intensity_range)
    ends = [
        slope * end + intercept
        for values, slope, intercept in zip(
            stack.before, stack.slope.tolist(), stack.intercept.tolist(), strict=True
        )
        for end in (int(values.min()), int(values.max()))
    ]
    yield Preset("all values", min(ends), max(max(ends), min(ends) + 1))


def notes_of(stack: Stack, view: View, cap: int) -> Iterator[str]:
    """Yield what a reader must know of the pixels of a page."""
    pixels = view.pixels
    about = f"all would take about {pixels.whole_bytes / _MEGA:.0f} MB and the cap is "
    about += f"{cap / _MEGA:g} MB (--max-mb)"
    if len(pixels.kept) < pixels.slices:
        yield (
            f"{len(pixels.kept)} of {pixels.slices} slices are in this page, evenly chosen, with "
            f"slice {stack.worst + 1}, whose PSNR is lowest: {about}. Numbers and charts are of all"
        )
    if pixels.step > 1:
        yield (
            f"One of {pixels.step} rows and columns is in this page: {about}. Each voxel shown has "
            "the value of the file, none is averaged. Numbers and charts are of all voxels"
        )
    if pixels.is_whole:
        yield "Every voxel of every slice is in this page, without loss"
    yield from notes_of_slices(stack)


def notes_of_slices(stack: Stack) -> Iterator[str]:
    """Yield what is particular about the slices of a series."""
    absent = [str(index + 1) for index in np.flatnonzero(~stack.has_after)]
    if absent:
        some = ", ".join(absent[:_LISTED]) + (", ..." if len(absent) > _LISTED else "")
        yield (
            f"{len(absent)} slices have no protected counterpart that could be read, and none is "
            f"shown: {some}. Numbers and charts count them as unchanged"
        )
    if stack.volumes > 1:
        yield f"The file holds {stack.volumes} volumes, shown one after the other"
    elif stack.first.irregular:
        yield f"No regular volume: {stack.first.irregular}"
    if units_of(stack) == "luminance":
        yield (
            "Colour is shown as the luminance that the method sees; the change is the same in "
            "every channel"
        )


def charts_of(stack: Stack, checks: Sequence[Check], units: str) -> tuple[tuple[Chart, str], ...]:
    """Return each chart with its caption."""
    charts = [_histogram(stack)]
    if stack.intensity_range is None:
        return tuple(charts)
    low, high = stack.intensity_range
    limit = {check.name: check for check in checks}
    shifts, floors = [], []
    if "slice_shift" in limit:
        check = limit["slice_shift"]
        shift = check.limit if check.unit == "HU" else check.limit * (high - low) / 100
        shifts = [(shift, f"limit +{shift:.3g}"), (-shift, f"limit -{shift:.3g}")]
    if "psnr" in limit:
        floors = [(limit["psnr"].limit, f"limit {limit['psnr'].limit:.3g} dB")]
    charts.append(
        (
            curve(
                [np.nan if one is None else one.mean_shift for one in stack.slices],
                title="Shift of the foreground mean by slice",
                y_label=f"mean shift, {units}",
                limits=shifts,
                unit=units,
            ),
            "How much brighter or darker the foreground of each slice became on average.",
        )
    )
    charts.append(
        (
            curve(
                [np.nan if one is None else one.psnr_db for one in stack.slices],
                title="PSNR by slice",
                y_label="PSNR, dB",
                limits=floors,
                unit="dB",
            ),
            f"Within {low:.6g}..{high:.6g} {units}; values beyond are clipped first. A slice "
            "without any change has no point.",
        )
    )
    return tuple(charts)


def _histogram(stack: Stack) -> tuple[Chart, str]:
    """Return how many foreground voxels changed by how much; those that did not are in words."""
    most = max(stack.largest_stored, 1)
    width = -(-(2 * most + 1) // _BINS) // 2 * 2 + 1  # odd: zero is in the middle of a bin
    half = -(-(most - width // 2) // width)
    counts = np.zeros(2 * half + 1, dtype=np.int64)
    same = voxels = 0
    for change, inside in stack.changes():
        found = change[inside]
        counts += np.bincount((found + width // 2) // width + half, minlength=counts.size)
        same += int(np.count_nonzero(found == 0))
        voxels += found.size
    counts[half] -= same
    share = 100 / max(voxels, 1)
    starts = [index * width - width // 2 for index in range(-half, half + 1)]
    bins = [
        (start, start + width - 1, share * count)
        for start, count in zip(starts, counts.tolist(), strict=True)
    ]
    chart = histogram(
        bins,
        title="Histogram of the change",
        x_label="change, stored units",
        y_label="share of the foreground, %",
    )
    each = "" if width == 1 else f" Bars are {width} units wide."
    return (
        chart,
        f"{share * same:.1f} % of the foreground did not change and is left out here.{each}",
    )
