"""Verify: measure a protected export against its source from disk; no manifest is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path

from salm_dicom.batch import nifti
from salm_dicom.batch.compared import Compared, Measuring, Scope
from salm_dicom.batch.engines import COPIES
from salm_dicom.batch.looking import Beheld, Look, Looked, folder_of, verified
from salm_dicom.batch.pair import Pair
from salm_dicom.batch.pairing import partners_of
from salm_dicom.batch.pool import in_order
from salm_dicom.batch.verified import Verification, Verified
from salm_dicom.batch.verify_objects import Known, verify_objects
from salm_dicom.crew import CAN_COPY, Crew
from salm_dicom.dicom.conformance import Finding
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.peek import read_header
from salm_dicom.dicom.scan import Scan, scan
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import InputError, PlanError
from salm_dicom.fidelity import Limits
from salm_dicom.nifti.image import is_nifti
from salm_dicom.nifti.image import read as read_nifti_file

# To share so many voxels costs what it gains: 32 slices of 512 x 512. To decode a voxel takes as
# long as to look at so many. Rows 7 to 9 look closely at four slices.
_ENOUGH_VOXELS, _DECODING, _MOST_SHARES = 1 << 23, 8, 4

Progress = Callable[[str, int, int], None]
See = Callable[["Verified", tuple[Compared, ...]], None]


def verify(
    source: Path,
    output: Path,
    limits: Limits,
    window: tuple[float, float] | None = None,
    progress: Progress = lambda *_: None,
    see: See | None = None,
    scope: Scope | None = None,
    cleaner: Deidentifier | None = None,
    jobs: int = 1,
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
        References are looked at last: the result may have a finding more for the series. Nothing
        is then done in other processes.
    scope
        What is measured; None: the rows that need nothing more.
    cleaner
        Of an output that was de-identified: its files are compared with what that makes of SOURCE.
    jobs
        Processes that work; the result is the same. See `Shares`.
    """
    _check_folders(source, output)
    look = Look(
        output=output,
        scope=scope or Scope(),
        limits=limits,
        window=window,
        cleaner=cleaner,
        keeps_pixels=see is not None,
    )
    asked = look.asked
    export, (partners, copies, strange) = Crew(jobs).together(
        partial(scan, source, allow_quantitative=True),  # in OUT only if that was asked for
        partial(partners_of, output),
    )
    found = export.series
    old = cleaner.uid if cleaner else str
    known = {old(instance.sop_uid) for series in found for instance in series.headers}
    strange += [
        (path, "names a source that is not in SOURCE")
        for uid, paths in partners.items()
        if uid not in known
        for path in paths
    ]
    here, absent = [], 0
    for series in found:
        pairs = {i.sop_uid: partners.get(old(i.sop_uid), []) for i in series.headers}
        if any(pairs.values()):
            here.append(Beheld(series=series, pairs=pairs))
        else:
            absent += not series.quantity
    series_found, uids, references = list[Verified](), Known(), list[set[UidPair]]()
    regions = set[int]()
    shares = Shares.of(here, 1 if see else jobs, needs_torch=asked.model is not None)
    progress("verify", 0, len(here))
    for one in shares.each(look, here):
        uids.add(one.known)
        references.append(one.references)
        regions |= one.regions
        series_found.append(one.verified)
        if see:
            see(one.verified, one.pixels)
        progress("verify", len(series_found), len(here))
        del one
    asked.outlines.used.update(regions)
    images, missing, unpaired = _images(export, output, asked, see or _unseen)
    objects = verify_objects(export.objects, copies, uids, lambda path: look.clean(read(path)))
    return Verification(
        series=(*map(_with_references, series_found, references, repeat(uids)), *images),
        absent=absent + missing,
        strange=(*strange, *unpaired),
        objects=objects,
        unused_regions=asked.outlines.unused,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Who does the work: the one place that decides it, by measured times.

    Parameters
    ----------
    series
        Processes that look at series, each at one at a time; 0: this one does.
    slices
        Processes that share the slices of a series.
    needs_torch
        Whether workers need it, so that they are no copies of this process.
    """

    series: int
    slices: int
    needs_torch: bool = False

    @classmethod
    def of(cls, here: Sequence[Beheld], jobs: int, *, needs_torch: bool = False) -> Shares:
        """Return the shares of so many processes.

        Those that share a series need its memory once; so slices are shared first, where there are
        enough of them, and series by as many as are left.
        """
        slices, series = 1, min(jobs, len(here))
        if series > 0 and jobs > 1 and not needs_torch:
            each = sum(map(effort, here)) // len(here)
            slices = max(1, min(jobs, _MOST_SHARES, each // _ENOUGH_VOXELS))
            series = min(jobs // slices, len(here))
        is_alone = series * slices < 2
        return cls(series=0 if is_alone else series, slices=slices, needs_torch=needs_torch)

    def each(self, look: Look, here: Sequence[Beheld]) -> Iterator[Looked]:
        """Yield what was found for each series, in order."""
        if not self.series:
            yield from map(look, here)
            return
        shared = [replace(one, crew=Crew(self.slices)) for one in here]
        if self.needs_torch or not CAN_COPY:
            yield from in_order(look, self.series, "local", shared, least=1, lost=look.lost)
            return
        # copies have the series as they are: only numbers are sent to them
        yield from in_order(
            lambda number: look(shared[number]),
            self.series,
            COPIES,
            range(len(shared)),
            least=1,
            lost=lambda number: look.lost(shared[number]),
        )


def effort(one: Beheld) -> int:
    """Return how much there is to do for a series, in voxels that need no decoder."""
    file, _, _ = read_header(one.series.paths[0])
    return one.series.voxels * (_DECODING if file.transfer_syntax.is_encapsulated else 1)


def _unseen(one: Verified, pixels: tuple[Compared, ...]) -> None:
    """See nothing."""


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


def _images(
    export: Scan, output: Path, asked: Measuring, see: See
) -> tuple[list[Verified], int, list[tuple[Path, str]]]:
    """Return what was found for NIfTI files, how many are absent, and files without a source."""
    partners, strange = nifti.partners(output)
    images: list[Verified] = []
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
            images.append(one)
        else:
            absent += nifti.is_unprotected(path)
    left = [path for paths in partners.values() for path in paths]
    strange += [(path, "names a source that is not in SOURCE") for path in left]
    return images, absent, strange


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
    return verified(folder_of([paths], output), modality, slices, findings, found), found
