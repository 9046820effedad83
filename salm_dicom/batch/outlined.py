"""The user's outlines (`--regions`): SEG, RTSTRUCT and NIfTI masks, put on the series they mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salm_dicom.dicom.outlines import Marks
from salm_dicom.errors import BadValue, InputError, MismatchError, PlanError
from salm_dicom.fidelity import Region
from salm_dicom.grid import align
from salm_dicom.nifti.general import load_any
from salm_dicom.nifti.image import is_nifti
from salm_dicom.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """Files with outlines, and which of them were put on a series.

    Regions are named by the number of their file in sorted order, not by its name.
    """

    marks: dict[int, Marks] = field(default_factory=dict)
    masks: dict[int, Path] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path | None) -> Outlines:
        """Return the outlines in a file or a folder; without a path there are none.

        Raises
        ------
        PlanError
            There is no such place, no outline in it, or one that cannot be understood.
        """
        found = cls()
        if path is None:
            return found
        if not path.exists():
            raise PlanError("the place of the regions does not exist")
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for number, file in enumerate(files, start=1):
            if is_nifti(file):
                found.masks[number] = file
                continue
            try:
                marks = Marks.read(file)
            except InputError as error:
                raise PlanError(f"file {number} of the regions: {error}") from error
            if marks is not None:
                found.marks[number] = marks
        if not found.marks and not found.masks:
            raise PlanError("no SEG, RTSTRUCT or NIfTI mask is where the regions should be")
        return found

    @property
    def unused(self) -> int:
        """Number of files that mark no series."""
        return len((self.marks.keys() | self.masks.keys()) - self.used)

    def on_series(
        self, volume: Volume, instances: Sequence[str], frames: Sequence[int]
    ) -> tuple[Region, ...]:
        """Return what is marked on a DICOM series, see `Marks.on`.

        Raises
        ------
        InputError
            An outline cannot be put on its series.
        """
        found = []
        for number, marks in self.marks.items():
            for outline in marks.on(volume, instances, frames):
                self.used.add(number)
                found.append(Region(name=f"{number}: {outline.name}", where=outline.where))
        return tuple(found)

    def on_grid(self, volume: Volume) -> Iterator[Region]:
        """Yield the labels of every NIfTI mask that lies on the grid of a volume."""
        for number, path in self.masks.items():
            try:
                labels = np.nan_to_num(labels_on(path, volume))
            except BadValue as error:
                raise PlanError(f"file {number} of the regions {error}") from error
            except MismatchError:
                continue
            for label in np.unique(labels[labels != 0]).tolist():
                self.used.add(number)
                yield Region(name=f"{number}: label {label:g}", where=labels == label)


def labels_on(path: Path, volume: Volume) -> NDArray[np.float32]:
    """Return the labels of a NIfTI mask on a volume, shape of its stored values; NaN: not covered.

    Raises
    ------
    BadValue
        The file is no mask.
    MismatchError
        It lies on another grid.
    """
    mask = load_any(path)
    if mask.values.ndim != 3:
        raise BadValue("is no volume of labels")
    shape = volume.pixels.values.shape[::-1]
    labels = align(mask.values.astype(np.float32), mask.affine, shape, volume.affine)
    return labels.transpose()
