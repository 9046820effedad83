"""The protected instances of a series beside those of its source; each file is read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salm_dicom.batch.verify_objects import Known
from salm_dicom.crew import ALONE, Crew
from salm_dicom.dicom import header as h
from salm_dicom.dicom.conformance import Finding, Instance, check, outside_changed, uid_pairs
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.dicom.series import Series, multi_frame, stacked
from salm_dicom.dicom.slices import ReadFile, put, read_file
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError
from salm_dicom.foreground import outline
from salm_dicom.volume import Booleans, Integers, StoredPixels, Volume

# What a file of the source is compared as: itself, or as it was before it was protected.
Clean = Callable[[Part10], Part10]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """One series before and after; arrays of (slices, rows, columns).

    Parameters
    ----------
    after
        Stored values of the protected instances, and of the source where there are none.
    mask
        Foreground of the source.
    extremes
        Least and largest stored value of each of its volumes that is no padding.
    has_after
        Whether each slice has a protected counterpart of its size.
    frames
        Of a multi-frame file, see `Origin`.
    findings
        What is wrong with its instances.
    references
        UIDs of the source's instances and what the protected ones have there.
    """

    volume: Volume
    after: Integers
    mask: Booleans
    extremes: list[tuple[int, int]]
    has_after: Booleans
    frames: tuple[int, ...]
    body_part: str
    findings: tuple[Finding, ...]
    references: set[UidPair]


def beside(
    series: SeriesFiles,
    pairs: dict[str, list[Path]],
    uids: Known,
    clean: Clean,
    crew: Crew = ALONE,
) -> Beside:
    """Return a series with what its protected instances are, and what is wrong with them.

    Parameters
    ----------
    pairs
        Protected files by the SOP Instance UID of their source.
    uids
        What became of the UIDs of the instances is noted there.
    crew
        Who reads and looks; the result is the same.

    Raises
    ------
    InputError
        The source cannot be read as one volume.
    """
    read_again, after, seen = _Reader(series=series, pairs=pairs, clean=clean, crew=crew).read()
    volume, frames = read_again.volume, read_again.origin.frames
    places = {path: index for index, path in enumerate(series.paths)}
    order = list(frames) or [places[path] for path in read_again.origin.paths]
    if order != list(range(len(order))):
        after = after[order]
    mask, outside, extremes = _masked(volume, after, crew)
    for number, voxels in [(0, sum(outside))] if frames else zip(order, outside, strict=True):
        if voxels and seen[number].is_comparable:
            seen[number].findings.append(outside_changed(voxels))
    for one in seen:
        if one.source is not None and one.protected is not None:
            uids.bind(one.source.sop_uid, one.protected.sop_uid)
            uids.bind(one.source.series_uid, one.protected.series_uid)
    identities = [one.protected for one in seen if one.protected is not None]
    return Beside(
        volume=volume,
        after=after,
        mask=mask,
        extremes=extremes,
        has_after=np.array([seen[0 if frames else number].has_after for number in order]),
        frames=frames,
        body_part=seen[0].body_part,
        findings=(*(found for one in seen for found in one.findings), *_consistency(identities)),
        references={pair for one in seen for pair in one.references},
    )


def _masked(
    volume: Volume, after: Integers, crew: Crew
) -> tuple[Booleans, list[int], list[tuple[int, int]]]:
    """Return the foreground of the source, voxels of each slice that changed outside it, and ends.

    Those are the least and largest stored value of each volume that is no padding.
    """
    before = volume.pixels.values
    mask = crew.zeros(before.shape, bool)
    found_in = [outline(v.pixels, v.modality, v.photometric, crew) for v in volume.volumes()]
    outlines = [(one, index) for one in found_in for index in range(len(one.pixels.values))]

    def look(at: int) -> int:
        found, index = outlines[at]
        crew.ready(mask[at])
        found.at(index, mask[at])
        return int(np.count_nonzero(np.greater(before[at] != after[at], mask[at])))

    return mask, crew.map(look, range(len(mask))), [one.extremes for one in found_in]


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What was seen of one file of the source, and of what was made of it, as far as it was read.

    Parameters
    ----------
    source, protected
        Who they are; the source as it was before it was protected.
    references
        UIDs of the source and what the protected instance has there.
    has_after, is_comparable
        Whether there are protected values of its size, and of its type.
    """

    read: ReadFile
    body_part: str
    findings: list[Finding] = field(default_factory=list)
    source: h.Identity | None = None
    protected: h.Identity | None = None
    references: list[UidPair] = field(default_factory=list)
    has_after: bool = False
    is_comparable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads each file of a series and what was made of it, once."""

    series: SeriesFiles
    pairs: dict[str, list[Path]]
    clean: Clean
    crew: Crew

    def read(self) -> tuple[Series, Integers, list[_Seen]]:
        """Return the series, the protected values in the order of its files, and what was seen."""
        paths = self.series.paths
        first = read_file(paths[0])
        file, pixels, one = first
        if len(paths) == 1 and one.header.frames > 1:
            after = np.empty_like(pixels.values)
            return multi_frame(file, one.header, pixels), after, [self._look(0, first, after)]
        kind, shape = pixels.values.dtype, (len(paths), *pixels.values.shape[1:])
        stack, after = self.crew.empty(shape, kind), self.crew.empty(shape, kind)

        def look(index: int) -> _Seen:
            here = read_file(paths[index]) if index else first
            self.crew.ready(stack[index])
            self.crew.ready(after[index])
            put(here[1], stack, index)
            return self._look(index, here, after[index : index + 1])

        seen = self.crew.map(look, range(len(paths)))
        return stacked(paths, [found.read for found in seen], stack), after, seen

    def _look(
        self, index: int, source: tuple[Part10, StoredPixels, ReadFile], after: Integers
    ) -> _Seen:
        """Return what was seen of a file; `after` gets what its pixels became, or these."""
        file, pixels, read_of_it = source
        seen = _Seen(read=read_of_it, body_part=h.text_of(file, h.BODY_PART))
        values = self._protected(index, file, pixels, seen)
        seen.has_after = values is not None
        after[:] = pixels.values if values is None else values
        return seen

    def _protected(
        self, index: int, file: Part10, pixels: StoredPixels, seen: _Seen
    ) -> Integers | None:
        """Return the stored values of what was made of a file, if it has them and its size."""
        paths = self.pairs[self.series.headers[index].sop_uid]
        if len(paths) != 1:
            text = f"slice {index + 1} has {len(paths)} protected instances"
            seen.findings.append(Finding("PAIR", text))
            return None
        try:
            protected = read(paths[0])
            values = stored_values(protected)
            seen.protected = h.identity_of(protected)
            before = pixels.values if len(pixels.values) > 1 else pixels.values[0]
            source = Instance(self.clean(file), before)
            seen.source = h.identity_of(source.file)
            seen.references = uid_pairs(source.file, protected)
            seen.findings += check(source, Instance(protected, values))
        except InputError as error:
            seen.findings.append(Finding(error.code, str(error)))
            return None
        seen.is_comparable = values.shape == before.shape and values.dtype == before.dtype
        return values if values.shape == before.shape else None


def _consistency(identities: list[h.Identity]) -> list[Finding]:
    """Return a finding when the instances of a series do not agree that they are one."""
    series = {identity.series_uid for identity in identities}
    if len(series) > 1:
        return [Finding("SERIES_UID", f"one source series became {len(series)} series")]
    if len({identity.sop_uid for identity in identities}) != len(identities):
        return [Finding("UID_REUSED", "two protected instances have one SOP Instance UID")]
    return []
