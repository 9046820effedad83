"""Outlines: what SEG and RTSTRUCT objects mark on the slices of a series.

What only such objects need is imported when there is one, as every process that starts would wait.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from salm_dicom.errors import BadValue
from salm_dicom.volume import Booleans, Floats, Volume

if TYPE_CHECKING:
    from highdicom.seg import Segmentation

# A fractional segment covers a voxel from here.
_COVERED = 0.5
_TROUBLE = (ValueError, KeyError, AttributeError, IndexError, TypeError, RuntimeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """One segment or structure, shape of the stored values.

    The name is a number, with the standard's term for the code of a segment. Labels and meanings
    that an object gives itself are free text, may name a patient, and are never read.

    Parameters
    ----------
    kind
        What it is a segment of, the same in every object: the standard's term, or what tells a code
        that it does not list from others; of a structure its number.
    """

    name: str
    kind: str
    where: Booleans


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """A SEG or RTSTRUCT object."""

    dataset: Any

    @classmethod
    def read(cls, path: Path) -> Marks | None:
        """Return the object in a file; None where it is another one, or no DICOM.

        Raises
        ------
        BadValue
            It cannot be understood.
        """
        try:
            kind = pydicom.dcmread(path, specific_tags=["SOPClassUID"]).get("SOPClassUID")
            if kind not in (SegmentationStorage, RTStructureSetStorage):
                return None
            dataset = pydicom.dcmread(path)
        except (InvalidDicomError, OSError):
            return None
        if kind == SegmentationStorage:
            from highdicom.seg import Segmentation

            try:
                return cls(dataset=Segmentation.from_dataset(dataset, copy=False))
            except _TROUBLE as error:
                raise BadValue(f"a SEG is not understood ({type(error).__name__})") from error
        return cls(dataset=dataset)

    @property
    def _is_segmentation(self) -> bool:
        return bool(self.dataset.SOPClassUID == SegmentationStorage)

    def instances(self) -> frozenset[str]:
        """Return the SOP Instance UIDs of the images that it marks something on.

        Raises
        ------
        BadValue
            The object does not say.
        """
        try:
            if self._is_segmentation:
                return frozenset(str(uid) for _, _, uid in self.dataset.get_source_image_uids())
            return frozenset(uid for uid, _ in _contours(self.dataset))
        except _TROUBLE as error:
            kind = type(error).__name__
            raise BadValue(f"an outline does not say what it is of ({kind})") from error

    def on(self, volume: Volume, instances: Sequence[str], frames: Sequence[int]) -> list[Outline]:
        """Return what is marked on a series; nothing where the object is about others.

        Parameters
        ----------
        instances
            SOP Instance UIDs of the slices, in order; of a multi-frame file its only one.
        frames
            Of a multi-frame file the index of the frame of each slice.

        Raises
        ------
        BadValue
            The object contradicts itself, or its contours need a regular volume.
        """
        try:
            if self._is_segmentation:
                return list(_segments(self.dataset, instances, frames))
            return list(_structures(self.dataset, volume, instances))
        except _TROUBLE as error:
            kind = type(error).__name__
            raise BadValue(f"an outline cannot be put on its series ({kind})") from error


def _segments(
    seg: Segmentation, instances: Sequence[str], frames: Sequence[int]
) -> Iterator[Outline]:
    if not {uid for _, _, uid in seg.get_source_image_uids()} & set(instances):
        return
    settings: dict[str, Any] = {
        "ignore_spatial_locations": True,
        "assert_missing_frames_are_empty": True,
    }
    if frames:
        numbers = [frame + 1 for frame in frames]
        found = seg.get_pixels_by_source_frame(instances[0], numbers, **settings)
    else:
        found = seg.get_pixels_by_source_instance(list(instances), **settings)
    for place, number in enumerate(seg.segment_numbers):
        kind = seg.get_segment_description(number).segmented_property_type
        term = _term(str(kind.value), str(kind.scheme_designator))
        where = np.asarray(found[..., place] >= _COVERED)
        if where.any():
            name = f"segment {number}" + f" ({term})" * bool(term)
            yield Outline(name=name, kind=term or _other(kind), where=where)


def _other(kind: Any) -> str:
    """Return what tells a code that the standard does not list from others, without its text."""
    code = f"{kind.scheme_designator}/{kind.value}".encode()
    return f"code {hashlib.sha256(code).hexdigest()[:8]}"


@lru_cache(maxsize=256)
def _term(value: str, scheme: str) -> str:
    """Return the standard's shortest term for a code; nothing for a code that it does not list."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    known = "SCT" if scheme == "SRT" else scheme  # the older name of SNOMED's codes
    if known not in codes.schemes():
        return ""
    asked = Code(value, scheme, "")
    terms = [one.meaning for one in getattr(codes, known).concepts.values() if one == asked]
    return min(terms, key=lambda term: (len(term), term), default="")


def _structures(dataset: Any, volume: Volume, instances: Sequence[str]) -> Iterator[Outline]:
    to_index = np.linalg.inv(volume.affine)
    for structure in dataset.get("ROIContourSequence", ()):
        where = np.zeros(volume.pixels.values.shape, dtype=bool)
        for uid, contour in _contours_of(structure):
            if uid not in instances or contour.ContourGeometricType != "CLOSED_PLANAR":
                continue
            if volume.irregular:
                raise BadValue("contours need a regular volume, and the series is none")
            points = np.array(contour.ContourData, dtype=np.float64).reshape(-1, 3) * (-1, -1, 1)
            columns_and_rows = (points @ to_index[:3, :3].T + to_index[:3, 3])[:, :2]
            # an inner contour is a hole (PS3.3 C.8.8.6.3: the exclusive or of nested contours)
            where[instances.index(uid)] ^= _filled(columns_and_rows, where.shape[1:])
        if where.any():
            name = f"structure {int(structure.ReferencedROINumber)}"
            yield Outline(name=name, kind=name, where=where)


def _contours(dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield every contour with the UID of the image that it lies on."""
    for structure in dataset.get("ROIContourSequence", ()):
        yield from _contours_of(structure)


def _contours_of(structure: Any) -> Iterator[tuple[str, Any]]:
    for contour in structure.get("ContourSequence", ()):
        images = contour.get("ContourImageSequence", ())
        yield str(images[0].ReferencedSOPInstanceUID) if images else "", contour


def _filled(points: Floats, shape: tuple[int, ...]) -> Booleans:
    """Return the voxels whose centre lies in a polygon of (column, row) points, by even and odd."""
    rows = np.arange(shape[0])
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossed = rows[(y0 <= rows) != (y1 <= rows)]
        if crossed.size:
            columns = np.ceil(x0 + (crossed - y0) * (x1 - x0) / (y1 - y0))
            np.add.at(crossings, (crossed, np.clip(columns, 0, shape[1]).astype(int)), 1)
    return np.asarray(np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1)
