"""Subject: one volume before and after, as metrics see it; Reading: one number measured of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from salm_dicom.crew import ALONE, Crew
from salm_dicom.difference import difference
from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.changes import SliceChange, slice_change
from salm_dicom.fidelity.squares import Squares, squares
from salm_dicom.fidelity.tissues import reached, tissues
from salm_dicom.volume import Booleans, Floats, Integers, StoredPixels

Slice = NDArray[np.float32]

# Modality values, (slices, rows, columns), and an affine -> a label for each voxel of the grid that
# the model works on, which is the same for two volumes of one grid.
Segmenter = Callable[[Slice, Floats], NDArray[np.int64]]

R = TypeVar("R")
# What is seen of one slice of a subject.
Look = Callable[["Subject", int], R]

# Slices that are looked at closely when not all are.
_SAMPLES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Voxels that somebody outlined: a lesion, an organ.

    Parameters
    ----------
    name
        What a result calls it; never a patient's value.
    where
        Shape of the stored values.
    """

    name: str
    where: Booleans


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Modality values that a display shows as black and white, as radiologists call it."""

    name: str
    low: float
    high: float

    def shown(self, values: Slice) -> Slice:
        """Return what is displayed, 0 black to 1 white."""
        grey: Slice = (values - np.float32(self.low)) * np.float32(1 / (self.high - self.low))
        return np.clip(grey, 0, 1, out=grey)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One number that was measured, and where it was worst.

    Parameters
    ----------
    name
        A key of `MEASURES`, which says in what unit it is.
    unit
        `HU`, `%`, `dB`, or empty for a plain number.
    where
        The region or window that it was measured in; with the name it tells readings apart.
    at
        Where in the volume it was worst.
    """

    name: str
    value: float
    unit: str
    where: str = ""
    at: str = ""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One volume before and after; arrays of (slices, rows, columns).

    Parameters
    ----------
    pixels, after
        Source, and the stored values of its protected counterpart.
    mask
        Foreground.
    spacing_mm
        Between rows and between columns.
    modality
        DICOM's *Modality*.
    intensity_range
        Modality values that networks see as black and white.
    regions
        What the user outlined.
    windows
        Clinical windows; without any it is the intensity range.
    ratio
        JPEG 2000 compression that such images are compared with.
    is_full
        Whether everything is measured on every slice, whatever it takes.
    affine
        (4, 4), (column, row, slice, 1) to RAS millimetres, for the model.
    model
        A segmentation model, see `models.load_segmenter`.
    ends
        Smallest and largest stored value of the source that is no padding, where they are known.
    crew
        Who looks at the slices; the numbers are the same.
    """

    pixels: StoredPixels
    after: Integers
    mask: Booleans
    spacing_mm: tuple[float, float]
    modality: str
    intensity_range: tuple[float, float]
    regions: tuple[Region, ...] = ()
    windows: tuple[Window, ...] = ()
    ratio: float = 6.0
    is_full: bool = False
    affine: Floats = field(default_factory=lambda: np.eye(4))
    model: Segmenter | None = None
    ends: tuple[int, int] | None = None
    crew: Crew = ALONE

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.mask)

    @property
    def shift_unit(self) -> str:
        """What a shift of a mean is in, HU for CT, else percent."""
        return "HU" if self.modality == "CT" else "%"

    @property
    def is_uptake(self) -> bool:
        """Whether values count something, so that a shift is a share of the region's own mean."""
        return self.modality in ("PT", "NM")

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns that hold all foreground; empty slices where there is none."""
        anywhere = np.logical_or.reduce(self.mask)
        rows, columns = np.flatnonzero(anywhere.any(axis=1)), np.flatnonzero(anywhere.any(axis=0))
        if not rows.size:
            return slice(0, 0), slice(0, 0)
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    @cached_property
    def views(self) -> tuple[Window, ...]:
        """Windows that the images are looked at in."""
        low, high = self.intensity_range
        return self.windows or (Window(name="intensity range", low=low, high=high),)

    @cached_property
    def samples(self) -> tuple[int, ...]:
        """The slices that changed most, and others evenly between them, for what takes long.

        Without a change, evenly chosen ones alone.
        """
        count = len(self)
        if self.is_full or count <= _SAMPLES:
            return tuple(range(count))
        slopes = self.pixels.slope
        changes = [one.squares * slopes[index] ** 2 for index, one in enumerate(self.changes)]
        worst = np.argsort(changes)[::-1][: _SAMPLES // 2].tolist()
        even = np.linspace(0, count - 1, _SAMPLES - len(worst) + 2)[1:-1].round().astype(int)
        return tuple(sorted({*worst, *even.tolist()}))

    @cached_property
    def extremes(self) -> tuple[int, int]:
        """Smallest and largest stored value of the source that is no padding."""
        return self.ends or self.pixels.extremes()

    @cached_property
    def tissues(self) -> tuple[tuple[str, ...], Floats]:
        """Names of tissues, and the modality values between them."""
        return tissues(self)

    @cached_property
    def changes(self) -> tuple[SliceChange, ...]:
        """What changed in each slice."""
        found = self.of_slices(Subject.change_of)
        self._changes.update(enumerate(found))
        return tuple(found)

    @cached_property
    def _changes(self) -> dict[int, SliceChange]:
        return {}

    def change_of(self, index: int) -> SliceChange:
        """Return what changed in one slice."""
        if index not in self._changes:
            self._changes[index] = slice_change(self, index)
        return self._changes[index]

    @cached_property
    def _edges(self) -> dict[tuple[float, float], list[tuple[bool, int]]]:
        return {}

    def edges_of(self, index: int) -> list[tuple[bool, int]]:
        """Return the stored values between tissues in one slice, see `tissues.reached`."""
        mapping = float(self.pixels.slope[index]), float(self.pixels.intercept[index])
        if mapping not in self._edges:
            self._edges[mapping] = reached(self, index, self.tissues[1])
        return self._edges[mapping]

    @cached_property
    def squares(self) -> Squares:
        """Squares that are all foreground."""
        return squares(self)

    @cached_property
    def _seen(self) -> dict[Look[Any], list[Any]]:
        return {}

    def of_slices(self, look: Look[R]) -> list[R]:
        """Return what a look at each slice gives; it is taken once."""
        self.take([look], range(len(self)))
        return self._found(look)

    def of_samples(self, look: Look[R]) -> list[R]:
        """Return the same of `samples`."""
        self.take([look], self.samples)
        return self._found(look)

    def take(self, looks: Iterable[Look[Any]], slices: Sequence[int]) -> None:
        """Take looks at some slices, all of them while a slice is at hand, and keep what is seen.

        What is `Unmeasurable` is so for who asks for it.
        """
        new = [look for look in dict.fromkeys(looks) if look not in self._seen]
        if not new:
            return
        for once in ("box", "extremes", "tissues", "views"):
            getattr(self, once)

        def seen(index: int) -> list[Any]:
            return [_seen(look, self, index) for look in new]

        found = self.crew.map(seen, slices)
        self._seen.update((look, [row[at] for row in found]) for at, look in enumerate(new))

    def _found(self, look: Look[R]) -> list[R]:
        found = self._seen[look]
        for one in found:
            if isinstance(one, Unmeasurable):
                raise one
        return found

    def source_at(self, index: int, box: tuple[slice, ...] | None = None) -> Slice:
        """Return the modality values of one slice of the source, (rows, columns)."""
        return self.mapped(index, self.pixels.values[index][box or ...])

    def protected_at(self, index: int, box: tuple[slice, ...] | None = None) -> Slice:
        """Return the modality values of one protected slice, (rows, columns)."""
        return self.mapped(index, self.after[index][box or ...])

    def change_at(self, index: int, box: tuple[slice, ...] | None = None) -> Integers:
        """Return the change of one slice in stored units, signed, (rows, columns)."""
        where = box or ...
        before, after = self.pixels.values[index][where], self.after[index][where]
        return difference(before, after, self.change_of(index).largest)

    def changed(self) -> list[int]:
        """Return the slices that have any change."""
        return [index for index, one in enumerate(self.changes) if one.changed]

    def shown(self, index: int, values: Integers) -> Slice:
        """Return what the intensity range shows of stored values of a slice, 0 to 1."""
        low, high = self.intensity_range
        return Window(name="", low=low, high=high).shown(self.mapped(index, values))

    def mapped(self, index: int, values: Integers) -> Slice:
        """Return the modality values of stored values of a slice."""
        slope, intercept = self.pixels.slope[index], self.pixels.intercept[index]
        mapped: Slice = values.astype(np.float32)
        mapped *= np.float32(slope)
        mapped += np.float32(intercept)
        return mapped


def _seen(look: Look[Any], subject: Subject, index: int) -> Any:
    try:
        return look(subject, index)
    except Unmeasurable as error:
        return error
