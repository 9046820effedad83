"""StoredPixels and Volume: stored integers, a linear mapping, and an affine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom import plots
from salm_dicom.errors import BadValue, MismatchError

Integers = NDArray[np.integer]
Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]

# A modality value further than this from a stored value was not made by adding stored units.
_OFF_GRID = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPixels:
    """Stored values of a stack of slices, and how each slice maps to modality values.

    Parameters
    ----------
    values
        Integers, shape (slices, rows, columns), as the file stores them (sign extended).
    slope, intercept
        float64, shape (slices,): modality value = slope * stored + intercept.
    bits_stored, signed
        DICOM's *Bits Stored* and *Pixel Representation*; they bound what can be written.
    padding
        Lowest and highest stored value that mean "no pixel here", inclusive, or None.
    room
        Largest absolute change that each voxel can take, shape of `values`, or None where only
        `bits_stored` limits it. 0 where nothing may change (outside an ultrasound region); in RGB
        images the room of the channel that has least.

    References
    ----------
    PS3.3 C.7.6.3 (Image Pixel), C.7.5.1.1.2 (Pixel Padding), C.11.1 (Modality LUT).
    """

    values: Integers
    slope: Floats
    intercept: Floats
    bits_stored: int
    signed: bool
    padding: tuple[int, int] | None = None
    room: Integers | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype.kind not in "iu":
            raise BadValue(
                f"stored values are {self.values.dtype} of {self.values.ndim} dimensions; "
                "integers of shape (slices, rows, columns) are needed"
            )
        if not self.values.shape[:1] == self.slope.shape == self.intercept.shape:
            raise BadValue("slope and intercept need one number for each slice")
        if not (np.isfinite(self.slope).all() and np.isfinite(self.intercept).all()):
            raise BadValue("rescale slope or intercept is not a finite number")
        if not self.slope.all():
            raise BadValue("rescale slope is 0; modality values would all be equal")
        if self.room is not None and self.room.shape != self.values.shape:
            raise BadValue("room needs one number for each stored value")

    @property
    def representable(self) -> tuple[int, int]:
        """Lowest and highest integer that *Bits Stored* can hold."""
        if self.signed:
            half = 1 << (self.bits_stored - 1)
            return -half, half - 1
        return 0, (1 << self.bits_stored) - 1

    def at(self, index: int) -> StoredPixels:
        """Return one slice as a stack of its own."""
        return self.taken(slice(index, index + 1))

    def taken(self, which: slice | NDArray[np.intp]) -> StoredPixels:
        """Return some slices, in the order asked for."""
        return replace(
            self,
            values=self.values[which],
            slope=self.slope[which],
            intercept=self.intercept[which],
            room=None if self.room is None else self.room[which],
        )

    def is_padding(self) -> Booleans:
        """Return True where a stored value means "no pixel here"; shape of `values`."""
        if self.padding is None:
            return np.zeros(self.values.shape, dtype=bool)
        low, high = self.padding
        return (self.values >= low) & (self.values <= high)

    def extremes(self) -> tuple[int, int]:
        """Return the least and largest stored value that is no padding; 0, 0 if all is."""
        found = [ends for index in range(len(self.values)) for ends in self.ends(index)] or [0]
        return min(found), max(found)

    def ends(self, index: int) -> tuple[int, ...]:
        """Return those of one slice; none if all of it is padding."""
        low, high = self.padding or (1, 0)
        real = self.values[index]
        real = real if low > high else real[(real < low) | (real > high)]
        return (int(real.min()), int(real.max())) if real.size else ()

    def modality_values(self) -> NDArray[np.float32]:
        """Return slope * stored + intercept, float32, shape of `values`.

        float32 holds every 16-bit stored value exactly enough that `delta_to` finds it again.
        """
        out = self.values.astype(np.float32)
        if (self.slope != 1).any():
            out *= self.slope.astype(np.float32)[:, None, None]
        if self.intercept.any():
            out += self.intercept.astype(np.float32)[:, None, None]
        return out

    def delta_to(self, modality_values: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the integers that lead from these stored values to `modality_values`.

        Where a modality value is NaN (the image does not cover the voxel) the change is 0.

        Raises
        ------
        MismatchError
            The modality values do not lie on the grid of stored values: they were resampled,
            smoothed, scaled or cast on the way, and could not be written exactly.
        """
        self._check_float32()
        # float32 is exact for what `modality_values` makes of 16-bit integers with slope 1
        simple = (self.slope == 1).all() and (self.intercept == np.rint(self.intercept)).all()
        kind = np.float32 if simple else np.float64
        exact: NDArray[Any] = modality_values.astype(kind)
        if self.intercept.any():
            exact -= self.intercept.astype(kind)[:, None, None]
        if not simple:
            exact /= self.slope[:, None, None]
        exact -= self.values
        if np.isnan(exact.sum()):
            exact[np.isnan(exact)] = 0
        whole = np.rint(exact)
        exact -= whole
        off = max(float(exact.max(initial=0.0)), -float(exact.min(initial=0.0)))
        if not off <= _OFF_GRID:
            raise MismatchError(
                f"a value lies {off:.3g} stored units off the source's grid; only values that "
                "SALM changed can be written. Put resampling and intensity transforms after "
                "SaveVolume, or leave them to the protector"
            )
        delta: NDArray[np.int32] = whole.astype(np.int32)
        return delta

    def _check_float32(self) -> None:
        """Refuse a mapping so fine that float32 modality values do not tell stored values apart."""
        low, high = self.representable
        largest = np.abs(self.slope) * max(-low, high) + np.abs(self.intercept)
        if (np.spacing(largest.astype(np.float32)) > _OFF_GRID * np.abs(self.slope)).any():
            raise MismatchError(
                "slope and intercept map stored values so finely that float32 cannot hold them; "
                "protect this series with `salm-dicom protect`, which stays on integers"
            )

    def shifted(self, delta: Integers) -> StoredPixels:
        """Return these pixels with `delta` stored units added, or refuse.

        Raises
        ------
        MismatchError
            A value would leave the range of *Bits Stored*, or padding would appear or vanish.
        """
        if delta.shape != self.values.shape or delta.dtype.kind not in "iu":
            raise MismatchError(
                f"delta is {delta.dtype} {delta.shape}; integers {self.values.shape} are needed"
            )
        low, high = self.representable
        least = int(self.values.min()) + min(int(delta.min()), 0)
        most = int(self.values.max()) + max(int(delta.max()), 0)
        if low <= least and most <= high:
            after = self.values + delta.astype(self.values.dtype)
        else:
            wide = self.values.astype(np.int64) + delta
            if ((wide < low) | (wide > high))[delta != 0].any():
                raise MismatchError(f"a value would leave {low}..{high} ({self.bits_stored} bits)")
            after = wide.astype(self.values.dtype)
        if self.padding is not None:
            first, last = self.padding
            touched = self.is_padding() | ((after >= first) & (after <= last))
            if (touched & (delta != 0)).any():
                raise MismatchError("a change would make padding appear or vanish")
        if self.room is not None and (np.abs(delta.astype(np.int32)) > self.room).any():
            raise MismatchError("a change is larger than its voxel's room, or lies where none may")
        return replace(self, values=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Slices `start` to `stop` of a multi-frame image's stack that make one volume of their own."""

    start: int
    stop: int
    affine: Floats
    irregular: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A stack of slices with its place in space.

    Parameters
    ----------
    pixels
        Stored values, (slices, rows, columns).
    affine
        (4, 4) float64, (column, row, slice, 1) to RAS millimetres.
    modality, photometric
        DICOM's *Modality* and *Photometric Interpretation*: MONOCHROME1 shows high values dark.
    irregular
        Empty, or why the slices are no evenly spaced parallel stack; then the third column of
        the affine is only a placeholder and the stack must be treated slice by slice.
    parts
        Volumes that one multi-frame file holds (echoes, b-values, orientations), one after the
        other along the stack; empty where the stack is one volume.
    quantity
        Empty, or why the values are measurements (`salm_dicom.quantity`).
    window
        Modality values that the source asks to be shown as black and white; None where it does not.
    """

    pixels: StoredPixels
    affine: Floats
    modality: str
    photometric: str = "MONOCHROME2"
    irregular: str = ""
    parts: tuple[Part, ...] = ()
    quantity: str = ""
    window: tuple[float, float] | None = None

    def volumes(self) -> tuple[Volume, ...]:
        """Return the volumes that the stack is made of; itself when it is one."""
        return tuple(
            replace(
                self,
                pixels=self.pixels.taken(slice(part.start, part.stop)),
                affine=part.affine,
                irregular=part.irregular,
                parts=(),
            )
            for part in self.parts
        ) or (self,)

    @property
    def units(self) -> str:
        """What modality values are in, HU for CT."""
        return "HU" if self.modality == "CT" else "modality units"

    def picture(
        self, index: int, window: tuple[float, float] | None = None, title: str = ""
    ) -> plots.Picture:
        """Return one slice to be drawn; a window is found if none is given."""
        values = self.pixels.at(index).modality_values()[0]
        return plots.Picture(
            title=title,
            values=values,
            window=window or plots.default_window(values, self.modality),
            unit=self.units,
            colours=plots.INVERTED if self.photometric == "MONOCHROME1" else plots.GRAY,
        )

    @property
    def aspect(self) -> float:
        """Height of a voxel as a multiple of its width."""
        across, down = np.linalg.norm(self.affine[:3, :2], axis=0).tolist()
        return float(down / across) if across and down else 1.0

    def plot(self, index: int | None = None, *, window: tuple[float, float] | None = None) -> Any:
        """Return a matplotlib figure of one slice; by default of the middle one."""
        count = len(self.pixels.values)
        at = count // 2 if index is None else plots.slice_at(index, count)
        shown = self.picture(at, window)
        return plots.pictures([shown], self.aspect, f"{self.modality}, slice {at + 1} of {count}")

    def histogram(self) -> Any:
        """Return a matplotlib figure of how often modality values occur, padding left out."""
        values = self.pixels.modality_values()[~self.pixels.is_padding()]
        return plots.histogram(values, title=self.modality, xlabel=self.units)

    def _repr_html_(self) -> str:
        """Return size, place and the middle slice, for notebooks; without matplotlib no slice."""
        spacing_mm = np.linalg.norm(self.affine[:3, :3], axis=0)
        facts = {
            "modality": self.modality,
            "slices, rows, columns": " x ".join(map(str, self.pixels.values.shape)),
            "spacing": " x ".join(f"{mm:.4g}" for mm in spacing_mm) + " mm",
            "irregular": self.irregular or "no",
        }
        return plots.as_html(facts, plots.if_installed(self.plot))
