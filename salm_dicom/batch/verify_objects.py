"""Verify copied objects: pair them with their sources, and follow every UID they hold.

Nothing in a copy names its source, so they are paired by what both share: class, study and every
attribute without a UID. No key is needed: UIDs are right if each UID of the source has become one
UID of the output, the one that its instance or series really has there, and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from salm_dicom.dicom import header as h
from salm_dicom.dicom.conformance import Finding
from salm_dicom.dicom.objects import OWN, STALE, ObjectHeader, compare_objects
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.references import vr_of
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError

# Reads a file of the source.
Load = Callable[[Path], Part10]


@dataclass(slots=True)
class Known:
    """Which UID of the source became which of the output, as found in the files."""

    new: dict[str, str] = field(default_factory=dict)
    old: dict[str, str] = field(default_factory=dict)

    def bind(self, old: str, new: str) -> bool:
        """Note a pair; return False where it contradicts what is known."""
        return self.new.setdefault(old, new) == new and self.old.setdefault(new, old) == old

    def add(self, other: Known) -> None:
        """Note what was found elsewhere; what is known already stays."""
        for old, new in other.new.items():
            self.bind(old, new)

    def wrong(self, pairs: Iterable[UidPair]) -> int:
        """Return how many UIDs are neither kept nor replaced as they should be."""
        return sum(self.new.get(old, old) != new for old, new in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedObjects:
    """What was found for the objects of an output.

    Parameters
    ----------
    right
        Copies that are their source but for UIDs, and whose UIDs are right.
    findings
        What is wrong with others.
    absent
        Objects of the source without a copy.
    """

    right: int = 0
    findings: tuple[tuple[Path, Finding], ...] = ()
    absent: int = 0


def verify_objects(
    objects: Sequence[ObjectHeader], copies: Sequence[Path], known: Known, load: Load = read
) -> VerifiedObjects:
    """Return what is wrong with the copies of a source's objects.

    Parameters
    ----------
    known
        UIDs of the protected images; those of the objects are added.
    load
        Reads an object of the source as it was before it was copied.
    """
    sources: dict[str, list[Path]] = {}
    for one in objects:
        sources.setdefault(_fingerprint(load(one.path)), []).append(one.path)
    findings: list[tuple[Path, Finding]] = []
    partners: list[tuple[Path, Path]] = []
    later: list[tuple[Path, list[Path]]] = []
    for path in copies:
        candidates = sources.get(_fingerprint(read(path)), [])
        if not candidates:
            findings.append((path, Finding("PAIR", "is the copy of no object of SOURCE")))
        elif len(candidates) == 1:
            partners.append((candidates[0], path))
        else:
            later.append((path, candidates))
    _bind(partners, known, findings, load)
    used = {source for source, _ in partners}
    for path, candidates in later:
        source = _closest(path, [one for one in candidates if one not in used], known, load)
        if source is None:
            findings.append((path, Finding("PAIR", "is the copy of no object of SOURCE")))
            continue
        used.add(source)
        partners.append((source, path))
        _bind(partners[-1:], known, findings, load)
    for source, path in partners:
        findings += [(path, one) for one in _check(source, path, known, load)]
    wrong = {path for path, _ in findings}
    return VerifiedObjects(
        right=sum(path not in wrong for _, path in partners),
        findings=tuple(findings),
        absent=len(objects) - len(used),
    )


def _fingerprint(file: Part10) -> str:
    """Return a digest of what an object and its copy share for certain."""
    digest = hashlib.sha256(
        f"{h.identity_of(file).sop_class} {h.text_of(file, h.STUDY_UID)}".encode()
    )
    for span in file.spans:
        if span.tag in OWN or span.tag in STALE or span.tag & 0xFFFF == 0:
            continue
        if vr_of(file, span) not in ("UI", "SQ"):
            digest.update(span.tag.to_bytes(4) + file.data[span.value : span.stop])
    return digest.hexdigest()


def _bind(
    partners: Iterable[tuple[Path, Path]],
    known: Known,
    findings: list[tuple[Path, Finding]],
    load: Load,
) -> None:
    for source, path in partners:
        old, new = h.identity_of(load(source)), h.identity_of(read(path))
        if not known.bind(old.sop_uid, new.sop_uid) or old.sop_uid == new.sop_uid:
            text = "(0008,0018) SOP Instance UID is another instance's"
            findings.append((path, Finding("UID_REUSED", text)))
        if not known.bind(old.series_uid, new.series_uid) or old.series_uid == new.series_uid:
            text = "(0020,000E) Series Instance UID is another series'"
            findings.append((path, Finding("SERIES_UID", text)))


def _closest(path: Path, candidates: list[Path], known: Known, load: Load) -> Path | None:
    """Return the source whose UIDs fit best; objects of one series often share all the rest."""
    fits = []
    for source in candidates:
        differences, pairs = compare_objects(load(source), read(path))
        fits.append((len(differences), known.wrong(pairs[:-2]), source))
    return min(fits)[2] if fits else None


def _check(source: Path, path: Path, known: Known, load: Load) -> list[Finding]:
    try:
        differences, pairs = compare_objects(load(source), read(path))
    except InputError as error:
        return [Finding(error.code, str(error))]
    found = [Finding(one.code, one.text) for one in differences]
    wrong = known.wrong(pairs)
    if wrong:
        found.append(Finding("REFERENCE", f"{wrong} UIDs do not lead to what is in OUT"))
    return found
