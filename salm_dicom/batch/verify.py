"""Verify: measure a protected export against its source from disk; no manifest is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from pathlib import Path

from salm_dicom.batch import nifti
from salm_dicom.batch.beside import Clean, beside
from salm_dicom.batch.compared import Compared, Measuring, Scope, tightest, unmeasured, worst
from salm_dicom.batch.pair import Pair, pairs_of
from salm_dicom.batch.pairing import partners_of
from salm_dicom.batch.verified import Verification, Verified
from salm_dicom.batch.verify_objects import Known, verify_objects
from salm_dicom.dicom.conformance import Finding
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.part10 import Part10, read
from salm_dicom.dicom.scan import Scan, SeriesFiles, scan
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError, PlanError
from salm_dicom.fidelity import Limits, missed
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.image import read as read_nifti_file

Progress = Callable[[str, int, int], None]
See = Callable[["Verified", tuple[Compared, ...]], None]


def verify(
    source: Path,
    output: Path,
    limits: Limits,
    window: tuple[float, float] | None = None,
    progress: Progress = lambda *_: None,
    see: See = lambda *_: None,
    scope: Scope | None = None,
    cleaner: Deidentifier | None = None,
) -> Verification:
    """Return what is wrong with a protected export, measured from disk.

    DICOM files are paired by Source Image Sequence, of multi-frame files that of every frame;
    NIfTI files by the SHA-256 in the sidecar. The foreground is computed again from the source.

    Parameters
    ----------
    window
        Modality values that PSNR and SSIM are stated for; None: as the plan's default.
    see
        Given each series in the order of the result, with its pixels, which are kept no longer.
        References are looked at last: the result may have a finding more for the series.
    scope
        What is measured; None: the rows that need nothing more.
    cleaner
        Of an output that was de-identified: its files are compared with what that makes of SOURCE.
    """
    _check_folders(source, output)
    asked = (scope or Scope()).measuring(limits, window)
    partners, copies, strange = partners_of(output)
    export = scan(source, allow_quantitative=True)  # in OUT only if that was asked for
    found = export.series
    old, clean = (cleaner.uid, cleaner) if cleaner else (str, _itself)
    known = {old(instance.sop_uid) for series in found for instance in series.headers}
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
        pairs = {i.sop_uid: partners.get(old(i.sop_uid), []) for i in series.headers}
        if any(pairs.values()):
            references.append(set())
            one, pixels = _series(series, pairs, output, asked, uids, references[-1], clean)
            see(one, pixels)
            verified.append(one)
            del pixels
        else:
            absent += not series.quantity
    progress("verify", len(found), len(found))
    images, missing, unpaired = _images(export, output, asked, see)
    objects = verify_objects(export.objects, copies, uids, lambda path: clean(read(path)))
    return Verification(
        series=(*map(_with_references, verified, references, repeat(uids)), *images),
        absent=absent + missing,
        strange=(*strange, *unpaired),
        objects=objects,
        unused_regions=asked.outlines.unused,
    )


def _itself(file: Part10) -> Part10:
    return file


def _check_folders(source: Path, output: Path) -> None:
    for place, name in ((source, "SOURCE"), (output, "OUT")):
        if not place.is_dir():
            raise PlanError(f"{name} is not a folder")


def _with_references(one: Verified, pairs: set[UidPair], uids: Known) -> Verified:
    """Return a series with a finding more where its references lead astray."""
    wrong = uids.wrong(pairs)
    if not wrong:
        return one
    finding = Finding("REFERENCE", f"{wrong} references do not lead to what is in OUT")
    return replace(one, findings=(*one.findings, finding))


def _series(
    series: SeriesFiles,
    pairs: dict[str, list[Path]],
    output: Path,
    asked: Measuring,
    uids: Known,
    references: set[UidPair],
    clean: Clean,
) -> tuple[Verified, tuple[Compared, ...]]:
    """Return what was found for one series; its UIDs and references are added to the last two."""
    seen = beside(series, pairs, uids, clean)
    references.update(seen.references)
    instances = [instance.sop_uid for instance in series.headers]
    regions = asked.outlines.on_series(seen.volume, instances, seen.frames)
    found = asked.compared(
        pairs_of(seen.volume, seen.after, seen.mask, seen.has_after, regions),
        seen.body_part,
        seen.findings,
    )
    name = _folder(pairs.values(), output)
    return _verified(name, seen.volume.modality, series.slices, seen.findings, found), found


def _verified(
    name: str,
    modality: str,
    slices: int,
    findings: Iterable[Finding],
    found: tuple[Compared, ...],
) -> Verified:
    """Return what was found for one series; the fidelity is that of its worst volume."""
    return Verified(
        name=name,
        modality=modality,
        slices=slices,
        findings=tuple(findings),
        missed=tuple(sorted({text for one in found for text in missed(one.checks)})),
        fidelity=worst(found),
        checks=tightest(found),
        unmeasured=unmeasured(found),
    )


def _images(
    export: Scan, output: Path, asked: Measuring, see: See
) -> tuple[list[Verified], int, list[tuple[Path, str]]]:
    """Return what was found for NIfTI files, how many are absent, and files without a source."""
    partners, strange = nifti.partners(output)
    verified: list[Verified] = []
    absent, seen = 0, set[str]()
    for path in sorted(row.path for row in export.left_out if is_nifti(row.path)):
        try:
            sha256 = read_nifti_file(path).sha256
        except InputError:
            continue
        if sha256 in seen:
            continue
        seen.add(sha256)
        paths = partners.pop(sha256, [])
        if paths:
            one, pixels = _image(path, paths, output, asked)
            see(one, pixels)
            verified.append(one)
        else:
            absent += nifti.is_unprotected(path)
    left = [path for paths in partners.values() for path in paths]
    strange += [(path, "names a source that is not in SOURCE") for path in left]
    return verified, absent, strange


def _image(
    source: Path, paths: list[Path], output: Path, asked: Measuring
) -> tuple[Verified, tuple[Compared, ...]]:
    """Return what was found for one NIfTI file."""
    findings = [Finding("PAIR", f"the file has {len(paths)} protected ones")] * (len(paths) > 1)
    pairs: list[Pair] = []
    try:
        wrong, pairs = nifti.verify_file(source, paths[0])
        findings += [Finding(code, text) for code, text in wrong]
    except InputError as error:
        findings.append(Finding(error.code, str(error)))
    modality = pairs[0].source.modality if pairs else ""
    slices = sum(len(pair.mask) for pair in pairs)
    found = asked.compared(pairs, "", findings)
    return _verified(_folder([paths], output), modality, slices, findings, found), found


def _folder(paths: Iterable[list[Path]], output: Path) -> str:
    folders = sorted({str(p.parent.relative_to(output)) for same in paths for p in same})
    return folders[0] if folders else ""
