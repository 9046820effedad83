"""Verify: measure a protected export against its source from disk; no manifest is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from salm_dicom.batch.verify_objects import Known, VerifiedObjects, verify_objects
from salm_dicom.dicom import header as h
from salm_dicom.dicom.conformance import Finding, Instance, check, uid_pairs
from salm_dicom.dicom.index import INDEX, strays
from salm_dicom.dicom.objects import COPIED
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.scan import SeriesFiles, scan
from salm_dicom.dicom.series import read_series
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError, PlanError
from salm_dicom.fidelity import Fidelity, Limits, measure, missed
from salm_dicom.foreground import foreground
from salm_dicom.plan import ProtectionPlan, intensity_range
from salm_dicom.volume import StoredPixels, Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found for one source series."""

    name: str
    modality: str
    slices: int
    findings: tuple[Finding, ...]
    missed: tuple[str, ...]
    fidelity: Fidelity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found for a whole output.

    Parameters
    ----------
    series
        One for each series of the source that is in the output.
    absent
        Series of the source that have no protected instance.
    strange
        Files of the output that could not be paired, with the reason.
    objects
        What was found for objects that are copied, not protected.
    """

    series: tuple[Verified, ...]
    absent: int
    strange: tuple[tuple[Path, str], ...] = field(default=())
    objects: VerifiedObjects = field(default_factory=VerifiedObjects)


def verify(
    source: Path,
    output: Path,
    limits: Limits,
    window: tuple[float, float] | None = None,
    progress: Progress = lambda *_: None,
) -> Verification:
    """Return what is wrong with a protected export, measured from disk.

    Files are paired by Source Image Sequence. The foreground is computed again from the source.

    Parameters
    ----------
    window
        Modality values that PSNR and SSIM are stated for; None: as the plan's default.
    """
    for place, name in ((source, "SOURCE"), (output, "OUT")):
        if not place.is_dir():
            raise PlanError(f"{name} is not a folder")
    plan = ProtectionPlan(method="random", intensity_range=window)
    partners, copies, strange = _partners(output)
    export = scan(source)
    found = export.series
    known = {instance.sop_uid for series in found for instance in series.headers}
    strange += [
        (path, "names a source that is not in SOURCE")
        for uid, paths in partners.items()
        if uid not in known
        for path in paths
    ]
    verified, absent = [], 0
    uids, references = Known(), list[set[UidPair]]()
    for index, series in enumerate(found):
        progress("verify", index, len(found))
        pairs = {i.sop_uid: partners.get(i.sop_uid, []) for i in series.headers}
        if any(pairs.values()):
            references.append(set())
            one = _series(series, pairs, output, limits, plan, uids, references[-1])
            verified.append(one)
        else:
            absent += 1
    progress("verify", len(found), len(found))
    objects = verify_objects(export.objects, copies, uids)
    return Verification(
        series=tuple(map(_with_references, verified, references, repeat(uids))),
        absent=absent,
        strange=tuple(strange),
        objects=objects,
    )


def _with_references(one: Verified, pairs: set[UidPair], uids: Known) -> Verified:
    """Return a series with a finding more where its references lead astray."""
    wrong = uids.wrong(pairs)
    if not wrong:
        return one
    finding = Finding("REFERENCE", f"{wrong} references do not lead to what is in OUT")
    return replace(one, findings=(*one.findings, finding))


def _partners(
    output: Path,
) -> tuple[dict[str, list[Path]], list[Path], list[tuple[Path, str]]]:
    """Return the images of the output by the source that they name, the objects, and the rest."""
    partners: dict[str, list[Path]] = {}
    copies: list[Path] = []
    strange: list[tuple[Path, str]] = []
    for path in sorted(p for p in output.rglob("*") if p.is_file() and p.suffix != ".json"):
        if path == output / INDEX:
            strange += [(path, what) for what in strays(path)]
            continue
        try:
            file = read(path)
        except InputError as error:
            strange.append((path, f"{error.code}: {error}"))
            continue
        if h.text_of(file, h.SOP_CLASS_UID) in COPIED and h.is_protected(file):
            copies.append(path)
            continue
        items = file.dataset.get("SourceImageSequence") or []
        if not items or not h.is_protected(file):
            strange.append((path, "does not say what it was derived from, or not by salm_dicom"))
            continue
        partners.setdefault(str(items[-1].get("ReferencedSOPInstanceUID")), []).append(path)
    return partners, copies, strange


def _series(
    series: SeriesFiles,
    pairs: dict[str, list[Path]],
    output: Path,
    limits: Limits,
    plan: ProtectionPlan,
    uids: Known,
    references: set[UidPair],
) -> Verified:
    """Return what was found for one series; its UIDs and references are added to the last two."""
    volume = read_series(series.paths).volume
    mask = foreground(volume.pixels, volume.modality, volume.photometric)
    findings: list[Finding] = []
    identities: list[h.Identity] = []
    after = volume.pixels.values.copy()
    for index, instance in enumerate(series.headers):
        paths = pairs[instance.sop_uid]
        if len(paths) != 1:
            text = f"slice {index + 1} has {len(paths)} protected instances"
            findings.append(Finding("PAIR", text))
            continue
        try:
            protected = read(paths[0])
            values = stored_values(protected)
            identities.append(h.identity_of(protected))
            before = Instance(read(instance.path), volume.pixels.values[index])
            uids.bind(instance.sop_uid, identities[-1].sop_uid)
            uids.bind(instance.series_uid, identities[-1].series_uid)
            references.update(uid_pairs(before.file, protected))
            findings += check(before, Instance(protected, values), may_change=mask[index])
            if values.shape == after[index].shape:
                after[index] = values
        except InputError as error:
            findings.append(Finding(error.code, str(error)))
    name = _folder(pairs.values(), output)
    findings += _consistency(identities)
    fidelity = _fidelity(volume, after, mask, plan)
    return Verified(
        name=name,
        modality=volume.modality,
        slices=len(series.headers),
        findings=tuple(findings),
        missed=tuple(missed(fidelity, limits, volume.modality)) if fidelity else (),
        fidelity=fidelity,
    )


def _fidelity(
    volume: Volume,
    after: np.ndarray,
    mask: np.ndarray,
    plan: ProtectionPlan,
) -> Fidelity | None:
    if not mask.any():
        return None
    pixels = volume.pixels
    protected = StoredPixels(
        values=after,
        slope=pixels.slope,
        intercept=pixels.intercept,
        bits_stored=pixels.bits_stored,
        signed=pixels.signed,
    )
    window = intensity_range(plan, volume, mask.__getitem__)
    return measure(pixels.modality_values(), protected.modality_values(), mask, window)


def _consistency(identities: list[h.Identity]) -> list[Finding]:
    """Return a finding when the instances of a series do not agree that they are one."""
    series = {identity.series_uid for identity in identities}
    if len(series) > 1:
        return [Finding("SERIES_UID", f"one source series became {len(series)} series")]
    if len({identity.sop_uid for identity in identities}) != len(identities):
        return [Finding("UID_REUSED", "two protected instances have one SOP Instance UID")]
    return []


def _folder(paths: Iterable[list[Path]], output: Path) -> str:
    folders = sorted({str(p.parent.relative_to(output)) for same in paths for p in same})
    return folders[0] if folders else ""
