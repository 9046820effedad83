"""Scan an export: group instances into volumes, and say by code why a file is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salm_dicom.dicom.entries import LeftOut as LeftOut
from salm_dicom.dicom.entries import admitted
from salm_dicom.dicom.geometry import Stack, stacks
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.quantitative import with_maps
from salm_dicom.errors import (
    DuplicatePosition,
    DuplicateUid,
    InputError,
    Quantitative,
)
from salm_dicom.quantity import check_allowed

_OBJECT_ORDER = ("patient_id", "study_uid", "series_uid", "sop_uid")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesFiles:
    """The instances of one volume, in spatial order."""

    stack: Stack

    @property
    def headers(self) -> tuple[InstanceHeader, ...]:
        """Headers in order of the slices."""
        return self.stack.headers

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files in order of the slices."""
        return tuple(instance.path for instance in self.headers)

    @property
    def series_uid(self) -> str:
        """Series Instance UID, or what stands for it."""
        return self.headers[0].series_uid

    @property
    def key(self) -> str:
        """What names it in a ledger; it stays when the export grows."""
        return f"{self.series_uid}/{min(one.sop_uid for one in self.headers)}"

    @property
    def modality(self) -> str:
        """DICOM's *Modality*."""
        return self.headers[0].modality

    @property
    def frames(self) -> int:
        """How many volumes over time there are, one as far as a scan can tell."""
        return 1

    @property
    def slices(self) -> int:
        """How many slices or frames the files have."""
        return sum(instance.frames for instance in self.headers)

    @property
    def images(self) -> int:
        """Slices of all volumes over time."""
        return self.slices

    @property
    def rows(self) -> int:
        """Rows of a slice."""
        return int(str(self.headers[0].pixel_format[0]))

    @property
    def columns(self) -> int:
        """Columns of a slice."""
        return int(str(self.headers[0].pixel_format[1]))

    @property
    def voxels(self) -> int:
        """Samples of all slices."""
        return self.slices * self.rows * self.columns * int(str(self.headers[0].pixel_format[2]))

    @property
    def irregular(self) -> str:
        """Empty, or why the slices are no regular volume."""
        return self.stack.irregular

    @property
    def quantity(self) -> str:
        """Empty, or why its values are measurements."""
        return next((one.quantity for one in self.headers if one.quantity), "")

    @property
    def is_multi_frame(self) -> bool:
        """Whether its frames lie in one file, and are placed when that is read."""
        return self.headers[0].frames > 1

    @property
    def affine(self) -> NDArray[np.float64]:
        """(column, row, slice) to RAS mm."""
        return self.stack.affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What is in an export; every file is in one of them.

    Parameters
    ----------
    series
        Volumes that can be protected.
    objects
        What is copied with its references mapped, ordered by patient, study, series.
    indexes
        DICOMDIRs: never copied, one is made anew for the output.
    left_out
        Every other file, with its code.
    """

    series: tuple[SeriesFiles, ...]
    left_out: tuple[LeftOut, ...]
    objects: tuple[ObjectHeader, ...] = ()
    indexes: tuple[Path, ...] = ()


def scan(root: Path, *, allow_quantitative: bool = False) -> Scan:
    """Return what is in the folder (or single file) `root`; every file is in the result once.

    Parameters
    ----------
    allow_quantitative
        Take images whose values are measurements, too (`salm_dicom.quantity`).
    """
    headers: list[InstanceHeader | ObjectHeader] = []
    indexes: list[Path] = []
    left_out: list[LeftOut] = []
    for found in admitted(root, allow_quantitative):
        if isinstance(found, LeftOut):
            left_out.append(found)
        elif isinstance(found, Path):
            indexes.append(found)
        else:
            headers.append(found)
    kept, doubles = _without_duplicates(headers)
    kept, mapped = _without_mapped(with_maps(kept), allow_quantitative)
    series, unusable = group(one for one in kept if isinstance(one, InstanceHeader))
    objects = [one for one in kept if isinstance(one, ObjectHeader)]
    rows = sorted([*left_out, *doubles, *mapped, *unusable], key=lambda row: str(row.path))
    return Scan(
        series=tuple(series),
        left_out=tuple(rows),
        objects=tuple(sorted(objects, key=attrgetter(*_OBJECT_ORDER))),
        indexes=tuple(indexes),
    )


def group(headers: Iterable[InstanceHeader]) -> tuple[list[SeriesFiles], list[LeftOut]]:
    """Return the volumes that the instances make, ordered by patient, study, series, position."""
    by_key: dict[tuple[object, ...], list[InstanceHeader]] = {}
    for instance in headers:
        by_key.setdefault(instance.volume_key, []).append(instance)
    found: list[SeriesFiles] = []
    left_out: list[LeftOut] = []
    for members in by_key.values():
        try:
            found.extend(SeriesFiles(stack=stack) for stack in stacks(members))
        except InputError as error:
            left_out.extend(LeftOut(i.path, error.code, str(error)) for i in members)
    return sorted(found, key=order), left_out


def _without_duplicates(
    headers: list[InstanceHeader | ObjectHeader],
) -> tuple[list[InstanceHeader | ObjectHeader], list[LeftOut]]:
    """Return one instance for each SOP Instance UID, and the copies and contradictions."""
    by_uid: dict[str, list[InstanceHeader | ObjectHeader]] = {}
    for instance in headers:
        by_uid.setdefault(instance.sop_uid, []).append(instance)
    kept: list[InstanceHeader | ObjectHeader] = []
    left_out: list[LeftOut] = []
    for same in by_uid.values():
        one, others = twins(same)
        kept += [] if one is None else [one]
        left_out += others
    return kept, left_out


def _without_mapped(
    headers: list[InstanceHeader | ObjectHeader], allow_quantitative: bool
) -> tuple[list[InstanceHeader | ObjectHeader], list[LeftOut]]:
    """Return the instances without images that an object maps to real-world values."""
    kept: list[InstanceHeader | ObjectHeader] = []
    left_out: list[LeftOut] = []
    for one in headers:
        try:
            check_allowed(getattr(one, "quantity", ""), allow_quantitative)
            kept.append(one)
        except Quantitative as error:
            left_out.append(LeftOut(one.path, error.code, str(error)))
    return kept, left_out


def twins(
    same: Sequence[InstanceHeader | ObjectHeader],
) -> tuple[InstanceHeader | ObjectHeader | None, list[LeftOut]]:
    """Return which of the files with one SOP Instance UID stays, and the others.

    Of copies the first stays; where contents differ, none.
    """
    contents = {instance.path.read_bytes() for instance in same} if len(same) > 1 else {b""}
    if len(contents) == 1:
        text = "a copy of an instance that is in the export already"
        return same[0], [LeftOut(i.path, DuplicatePosition.code, text) for i in same[1:]]
    text = "another file has this SOP Instance UID and different content"
    return None, [LeftOut(i.path, DuplicateUid.code, text) for i in same]


def order(series: SeriesFiles) -> tuple[str, str, str, float, int, str]:
    """Return what series are ordered by: patient, study, series, position, number, instance."""
    first = series.headers[0]
    along = first.position[2] if first.position else 0.0
    return (
        first.patient_id, first.study_uid, first.series_uid,
        along, first.instance_number, first.sop_uid,
    )  # fmt: skip
