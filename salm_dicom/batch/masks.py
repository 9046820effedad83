"""Masks as labels (`--masks`): which files mark a series, and the mask that they make of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salm_dicom.batch.catalog import AnySeries, Catalog
from salm_dicom.batch.outlined import labels_on
from salm_dicom.dicom.outlines import Marks
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import (
    BadValue,
    Changed,
    GeometryError,
    InputError,
    MismatchError,
    NoLabel,
    PlanError,
)
from salm_dicom.grid import covers
from salm_dicom.nifti.general import grid_of
from salm_dicom.nifti.image import SUFFIXES, is_nifti
from salm_dicom.nifti.scan import NiftiFile
from salm_dicom.nifti.series import read_nifti
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask
from salm_dicom.volume import Booleans, Floats, Volume

# What may follow the name of an image in that of its mask.
_BETWEEN = "_-. "
# nnU-Net numbers the channels of a case: case_0000 is an image of the mask case.
_CHANNEL = re.compile(r"_\d{4}$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The files that mark one series, and the SHA-256 of their bytes, one after the other."""

    paths: tuple[Path, ...]
    sha256: str

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Chosen:
        """Return the choice of these files as they are now."""
        found = tuple(path.absolute() for path in paths)
        return cls(paths=found, sha256=_sha256(found))

    @property
    def text(self) -> str:
        """What stands for it where a label is a text."""
        return json.dumps([self.sha256, *map(str, self.paths)])

    @classmethod
    def from_text(cls, text: str) -> Chosen:
        """Return what `text` stands for."""
        sha256, *paths = json.loads(text)
        return cls(paths=tuple(map(Path, paths)), sha256=sha256)

    def on(self, volume: Volume, instances: Sequence[str], frames: Sequence[int] = ()) -> Mask:
        """Return the mask that the files make of a series.

        Parameters
        ----------
        instances, frames
            As for `Marks.on`; none of a NIfTI image.

        Raises
        ------
        NoLabel, GeometryError, BadValue, Changed
            They contradict each other, do not lie on its grid, cannot be understood, or are not the
            ones that were chosen.
        """
        if _sha256(self.paths) != self.sha256:
            raise Changed("a mask changed after it was chosen; run again")
        regions: dict[str, Booleans] = {}
        for path in self.paths:
            for kind, where in _regions(path, volume, instances, frames):
                regions[kind] = regions[kind] | where if kind in regions else where
        return Mask.of(regions, volume.pixels.values.shape, self.sha256)


class Masks:
    """Files with masks, and which of them mark which series of a catalog.

    A SEG or RTSTRUCT marks the series whose instances it names. A NIfTI mask marks the image that
    its name begins with (of a DICOM series: its Series Instance UID), the longest such name; a mask
    that is named like none marks the one series whose grid it covers.
    """

    def __init__(self, path: Path, root: Path, catalog: Catalog) -> None:
        """Find the masks in a file or a folder, which may be the export itself.

        Parameters
        ----------
        root
            Of the export; folders within it count where several masks have one name.

        Raises
        ------
        PlanError
            There is no such place, or no mask in it.
        """
        self.path, self.root = path, root
        self.of_instance: dict[str, list[Path]] = {}
        self.of_name: dict[str, list[Path]] = {}
        self.unnamed: list[tuple[Path, tuple[int, ...], Floats]] = []
        self.fitting: dict[Path, int] = {}
        images = {p.resolve() for e in catalog.series("kind = 'nifti'") for p in e.series.paths}
        names = {name for e in catalog.series() for name in _names(e.series)}
        for file in _files(path):
            if is_nifti(file) and file.resolve() not in images:
                self._add_nifti(file, names)
            elif not is_nifti(file):
                self._add_marks(file)
        if not (self.of_instance or self.of_name or self.unnamed):
            raise PlanError("no SEG, RTSTRUCT or NIfTI mask is where the masks should be")
        for entry in catalog.series() if self.unnamed else ():
            for one in self._fitting(entry.series):
                self.fitting[one] = self.fitting.get(one, 0) + 1

    def of(self, series: AnySeries) -> str:
        """Return what stands for the masks of a series, see `Chosen.text`.

        Raises
        ------
        NoLabel
            It has none, or it is not clear which.
        """
        instances = [one.sop_uid for one in getattr(series, "headers", ())]
        marks = {path for uid in instances for path in self.of_instance.get(uid, ())}
        if marks:
            return Chosen.of(sorted(marks)).text
        named = self._named(series)
        if len(named) > 1:
            raise NoLabel(f"{len(named)} NIfTI masks are named like it; one is needed")
        fitting = named or self._fitting(series)
        if not fitting:
            raise NoLabel("no SEG, RTSTRUCT or NIfTI mask marks this series")
        if len(fitting) > 1:
            raise NoLabel(
                f"{len(fitting)} NIfTI masks lie on its grid; name the right one like the series"
            )
        if not named and self.fitting[fitting[0]] > 1:
            raise NoLabel(
                f"the NIfTI mask on its grid fits {self.fitting[fitting[0]]} series; name a mask "
                "like each"
            )
        return Chosen.of(fitting).text

    def _add_nifti(self, file: Path, names: set[str]) -> None:
        stem = _stem(file)
        ends = (len(stem), *(at for at in reversed(range(len(stem))) if stem[at] in _BETWEEN))
        name = next((stem[:end] for end in ends if stem[:end] in names), None)
        if name is not None:
            self.of_name.setdefault(name, []).append(file)
            return
        try:
            self.unnamed.append((file, *grid_of(file)))
        except InputError as error:
            raise PlanError(f"a NIfTI mask cannot be read: {error}") from error

    def _add_marks(self, file: Path) -> None:
        try:
            marks = Marks.read(file)
            instances = () if marks is None else marks.instances()
        except InputError as error:
            raise PlanError(f"a mask cannot be read: {error}") from error
        for uid in instances:
            self.of_instance.setdefault(uid, []).append(file)

    def _named(self, series: AnySeries) -> list[Path]:
        """Return the NIfTI masks named like a series, of several those in its folder."""
        found = [path for name in _names(series) for path in self.of_name.get(name, ())]
        if len(found) < 2:
            return found
        folder = series.paths[0].parent.relative_to(self.root)
        return [one for one in found if one.parent == self.path / folder] or found

    def _fitting(self, series: AnySeries) -> list[Path]:
        """Return the NIfTI masks without a name that cover the grid of a series."""
        grid = _grid(series)
        if grid is None or self._named(series):
            return []
        return [path for path, shape, affine in self.unnamed if covers(shape, affine, *grid)]


def mask_of(series: AnySeries, text: str) -> Mask:
    """Return the mask of a series, read again; see `Chosen.on`."""
    chosen = Chosen.from_text(text)
    if isinstance(series, NiftiFile):
        file = read_nifti(series.path, series.modality, allow_quantitative=bool(series.quantity))
        return chosen.on(file.volumes[0], ())
    read = read_series(series.paths)
    return chosen.on(read.volume, [one.sop_uid for one in series.headers], read.origin.frames)


def digest_key(plan: ProtectionPlan, label: str | None) -> str | None:
    """Return what `Protector.digest_for` takes for the label of a catalog."""
    return Chosen.from_text(label).sha256 if plan.needs_masks and label is not None else label


def _regions(
    path: Path, volume: Volume, instances: Sequence[str], frames: Sequence[int]
) -> Iterator[tuple[str, Booleans]]:
    """Yield name and place of each class that a file marks."""
    if is_nifti(path):
        yield from _labels(path, volume)
        return
    marks = Marks.read(path)
    for outline in marks.on(volume, instances, frames) if marks else ():
        yield outline.kind, outline.where


def _labels(path: Path, volume: Volume) -> Iterator[tuple[str, Booleans]]:
    try:
        labels = labels_on(path, volume)
    except MismatchError as error:
        raise GeometryError(f"its NIfTI mask lies on another grid: {error}") from error
    except BadValue as error:
        raise BadValue(f"its NIfTI mask {error}") from error
    if np.isnan(labels).any():
        raise GeometryError("its NIfTI mask does not cover all of it")
    values = np.unique(labels[labels != 0]).tolist()
    if any(value != round(value) for value in values):
        raise BadValue("its NIfTI mask has values that are no whole numbers")
    for value in values:
        yield f"label {value:g}", labels == value


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise PlanError("the place of the masks does not exist")
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _names(series: AnySeries) -> tuple[str, ...]:
    """Return what a mask of the series may be called."""
    if not isinstance(series, NiftiFile):
        return (series.series_uid,)
    stem = _stem(series.path)
    return tuple(dict.fromkeys((stem, _CHANNEL.sub("", stem))))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(SUFFIXES[0])


def _grid(series: AnySeries) -> tuple[tuple[int, int, int], Floats] | None:
    """Return shape, by column, row and slice, and affine of a series that is one regular volume."""
    if series.irregular or series.is_multi_frame:
        return None
    return (series.columns, series.rows, series.slices), np.reshape(series.affine, (4, 4))


def _sha256(paths: Sequence[Path]) -> str:
    try:
        digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    except OSError as error:
        raise Changed(f"a mask cannot be read any more ({type(error).__name__})") from error
    return hashlib.sha256(digests).hexdigest()
