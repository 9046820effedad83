"""Report: verify an output and write what was seen, one page for each series, and an index."""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from salm_dicom.batch.compared import Compared, Scope
from salm_dicom.batch.manifest import read_manifest
from salm_dicom.batch.places import check_apart
from salm_dicom.batch.review import SCHEMA, digest_of_series
from salm_dicom.batch.sheet import CANVAS, entry_of, judgement, sheet_of, summary_of
from salm_dicom.batch.verified import Verification, Verified
from salm_dicom.batch.verify import Progress, verify
from salm_dicom.dicom.deidentify import Deidentifier
from salm_dicom.errors import UnsafeError
from salm_dicom.fidelity import Limits
from salm_dicom.folder import WholeFolder, make_private
from salm_dicom.report import Asked, Sheet, index_page, series_page

INDEX_PAGE = "index.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be reported, and where.

    Parameters
    ----------
    target
        A new folder. It shows pixels of the source: it belongs where the vault is, not in OUT.
    window
        Modality values that PSNR and SSIM are stated for; None: as the plan's default.
    cap
        Most characters that the pixels of a page take.
    viewer
        One of `sheet.VIEWERS`.
    scope, cleaner
        As `verify` takes them.
    """

    source: Path
    output: Path
    target: Path
    limits: Limits
    window: tuple[float, float] | None = None
    cap: int = 32_000_000
    viewer: str = CANVAS
    scope: Scope | None = None
    cleaner: Deidentifier | None = None


def report(request: Request, progress: Progress = lambda *_: None) -> Verification:
    """Write the report into a new folder, all of it or nothing; return what was found.

    Nothing is written where the source has no series in the output.

    Raises
    ------
    UnsafeError
        The folder exists, or lies in SOURCE or OUT, or around them.
    """
    target = request.target
    check_apart({"SOURCE": request.source, "OUT": request.output, "the report": target})
    if target.exists():
        raise UnsafeError("the report's folder exists; nothing is ever overwritten, name a new one")
    stated = read_manifest(request.output)
    make_private(target.parent)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as spool:
        spooled: list[Path] = []

        def see(verified: Verified, pixels: tuple[Compared, ...]) -> None:
            sheet = sheet_of(verified, pixels, stated, request.cap, request.viewer)
            digest = digest_of_series(request.output / verified.name)
            spooled.append(Path(spool, str(len(spooled))))
            spooled[-1].write_bytes(pickle.dumps((sheet, digest)))

        found = verify(
            request.source,
            request.output,
            request.limits,
            request.window,
            progress,
            see,
            request.scope,
            cleaner=request.cleaner,
        )
        if found.series:
            _write(target, found, spooled, stated)
    return found


def _write(
    target: Path, found: Verification, spooled: Iterable[Path], stated: dict[str, object]
) -> None:
    """Write the pages; the verdict of a series is known only after all were verified."""
    names: set[str] = {INDEX_PAGE}
    entries = []
    with WholeFolder(target) as out:
        for verified, path in zip(found.series, spooled, strict=True):
            sheet, digest = pickle.loads(path.read_bytes())  # written above, by ourselves
            path.unlink()
            name = _page_name(verified.name, names)
            asked = Asked(
                schema=SCHEMA,
                folder=verified.name,
                digest=digest,
                file=f"{Path(name).stem}.review.json",
            )
            out.write(name, series_page(replace(_judged(sheet, verified), asked=asked)))
            entries.append(entry_of(verified, name))
        out.write(INDEX_PAGE, index_page(summary_of(found, entries, stated)))


def _judged(sheet: Sheet, verified: Verified) -> Sheet:
    verdict, state, problems = judgement(verified)
    return replace(sheet, verdict=verdict, state=state, problems=problems)


def _page_name(folder: str, taken: set[str]) -> str:
    """Return a file name made of the series' folder, and note it in `taken`."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", folder).strip("-")[:100] or "series"
    number, name = 1, f"{plain}.html"
    while name.lower() in taken:
        number += 1
        name = f"{plain}-{number}.html"
    taken.add(name.lower())
    return name
