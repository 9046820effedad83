"""The protected instances of a series beside those of its source; each file is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from salm_dicom.batch.verify_objects import Known
from salm_dicom.dicom import header as h
from salm_dicom.dicom.conformance import Finding, Instance, background, check, uid_pairs
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.dicom.series import read_series
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError
from salm_dicom.foreground import foreground
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
    has_after: Booleans
    frames: tuple[int, ...]
    body_part: str
    findings: tuple[Finding, ...]
    references: set[UidPair]


def beside(series: SeriesFiles, pairs: dict[str, list[Path]], uids: Known, clean: Clean) -> Beside:
    """Return a series with what its protected instances are, and what is wrong with them.

    Parameters
    ----------
    pairs
        Protected files by the SOP Instance UID of their source.
    uids
        What became of the UIDs of the instances is noted there.

    Raises
    ------
    InputError
        The source cannot be read as one volume.
    """
    seen = _Seen(series=series, pairs=pairs, uids=uids, clean=clean)
    read_again = read_series(series.paths, on_file=seen.look)
    volume, frames = read_again.volume, read_again.origin.frames
    masks = [foreground(v.pixels, v.modality, v.photometric) for v in volume.volumes()]
    mask = masks[0] if len(masks) == 1 else np.concatenate(masks)
    places = {path: index for index, path in enumerate(series.paths)}
    order = list(frames) or [places[path] for path in read_again.origin.paths]
    is_in_order = order == list(range(len(order)))
    after = seen.after if is_in_order else seen.after[order]
    seen.look_behind(volume.pixels.values, after, mask, order)
    findings = [one for found in seen.findings for one in found]
    return Beside(
        volume=volume,
        after=after,
        mask=mask,
        has_after=seen.has_after[order],
        frames=frames,
        body_part=seen.body_part,
        findings=(*findings, *_consistency(seen.identities)),
        references=seen.references,
    )


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What was seen of the protected files, in the order of the source's files and frames."""

    series: SeriesFiles
    pairs: dict[str, list[Path]]
    uids: Known
    clean: Clean
    body_part: str = ""
    after: Integers = field(default_factory=lambda: np.empty(0, np.int16))
    has_after: Booleans = field(default_factory=lambda: np.empty(0, bool))
    identities: list[h.Identity] = field(default_factory=list)
    findings: list[list[Finding]] = field(default_factory=list)
    comparable: set[int] = field(default_factory=set)
    references: set[UidPair] = field(default_factory=set)

    def look(self, index: int, file: Part10, pixels: StoredPixels) -> None:
        """Look at a file of the source and at what was made of it."""
        here = slice(index, index + len(pixels.values))
        if not index:
            count = max(len(self.series.headers), len(pixels.values))
            self.after = np.empty((count, *pixels.values.shape[1:]), pixels.values.dtype)
            self.has_after = np.zeros(count, dtype=bool)
            self.body_part = h.text_of(file, h.BODY_PART)
        findings: list[Finding] = []
        self.findings.append(findings)
        values = self._protected(index, file, pixels, findings)
        self.has_after[here] = values is not None
        self.after[here] = pixels.values if values is None else values

    def _protected(
        self, index: int, file: Part10, pixels: StoredPixels, findings: list[Finding]
    ) -> Integers | None:
        """Return the stored values of what was made of a file, if it has them and its size."""
        paths = self.pairs[self.series.headers[index].sop_uid]
        if len(paths) != 1:
            text = f"slice {index + 1} has {len(paths)} protected instances"
            findings.append(Finding("PAIR", text))
            return None
        try:
            protected = read(paths[0])
            values = stored_values(protected)
            self.identities.append(h.identity_of(protected))
            before = pixels.values if len(pixels.values) > 1 else pixels.values[0]
            source = Instance(self.clean(file), before)
            self._note(source.file, protected)
            findings += check(source, Instance(protected, values))
        except InputError as error:
            findings.append(Finding(error.code, str(error)))
            return None
        if values.shape != before.shape:
            return None
        if values.dtype == before.dtype:
            self.comparable.add(index)
        return values

    def _note(self, source: Part10, protected: Part10) -> None:
        """Note which UID of the source has become which."""
        old, new = h.identity_of(source), self.identities[-1]
        self.uids.bind(old.sop_uid, new.sop_uid)
        self.uids.bind(old.series_uid, new.series_uid)
        self.references.update(uid_pairs(source, protected))

    def look_behind(
        self, before: Integers, after: Integers, mask: Booleans, order: Sequence[int]
    ) -> None:
        """Look at what lies outside the foreground, which the whole volume tells."""
        is_one_file = len(self.findings) == 1
        files = [(slice(None), 0)] if is_one_file else [*enumerate(order)]
        for at, number in files:
            if number in self.comparable:
                self.findings[number] += background(before[at] != after[at], mask[at])


def _consistency(identities: list[h.Identity]) -> list[Finding]:
    """Return a finding when the instances of a series do not agree that they are one."""
    series = {identity.series_uid for identity in identities}
    if len(series) > 1:
        return [Finding("SERIES_UID", f"one source series became {len(series)} series")]
    if len({identity.sop_uid for identity in identities}) != len(identities):
        return [Finding("UID_REUSED", "two protected instances have one SOP Instance UID")]
    return []
