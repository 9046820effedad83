"""Take reviews back: what was rejected leaves an output for its vault, and returns if accepted."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salm_dicom.batch.index import renew_index
from salm_dicom.batch.ledger import Ledger, Row
from salm_dicom.batch.manifest import note_decisions, read_manifest, write_json
from salm_dicom.batch.nifti import PREFIX
from salm_dicom.batch.places import check_apart
from salm_dicom.batch.review import (
    COMMENT,
    REJECT,
    BadReview,
    Rejected,
    Review,
    digest_of_series,
    read_review,
)
from salm_dicom.batch.settle import refer
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.conformance import derivations
from salm_dicom.dicom.header import SERIES_UID, identity_of, text_of
from salm_dicom.dicom.part10 import read
from salm_dicom.errors import MismatchError, PlanError, SalmDicomError
from salm_dicom.folder import WholeFolder, atomic, flush, make_private

_REASON = "a reviewer rejected the protected series; it lies in the vault, below rejected/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What came of reviews.

    Parameters
    ----------
    done
        Folder of each series with the decision that now holds for it, or `comment`.
    refused
        Files that were not applied, with code and reason.
    """

    done: tuple[tuple[str, str], ...]
    refused: tuple[tuple[Path, str, str], ...]


def apply_reviews(paths: Sequence[Path], output: Path, vault_folder: Path) -> Applied:
    """Apply what reviewers decided; a review that cannot be applied is listed, the others are.

    A rejected series is moved into the vault, references to it lead to its source again, and later
    runs leave it out (`E_REJECTED`). Accepting it for the same pixels brings it back as it was.
    Killed in between, the same call finishes it.

    Raises
    ------
    PlanError
        There is no such output, or no vault of it.
    UnsafeError
        OUT and vault are not apart.
    Locked
        A run is writing to the output.
    """
    vault = Vault(vault_folder)
    if not output.is_dir():
        raise PlanError("OUT is no folder; give the folder that the report was made of")
    if not vault.ledger.exists():
        raise PlanError("the vault has no ledger; give the vault that the output was made with")
    check_apart({"OUT": output, "the vault": vault_folder})
    done: list[tuple[str, str]] = []
    refused: list[tuple[Path, str, str]] = []
    with vault.locked(), Ledger.open(vault.ledger) as ledger:
        place = _Place(output=output, vault=vault, ledger=ledger)
        reviews: list[tuple[Path, Review, Row]] = []
        for path in paths:
            try:
                review = read_review(path)
                reviews.append((path, review, _checked(review, place)))
            except SalmDicomError as error:
                refused.append((path, error.code, str(error)))
        unclear = _contradictory(review for _, review, _ in reviews)
        for path, review, row in reviews:
            if review.folder in unclear:
                text = "another of these reviews says the opposite of the series; apply one of them"
                refused.append((path, BadReview.code, text))
                continue
            _apply(review, row, place)
            done.append((review.folder, review.decision))
    return Applied(done=tuple(done), refused=tuple(refused))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where decisions take effect."""

    output: Path
    vault: Vault
    ledger: Ledger

    def folder(self, row: Row) -> Path:
        """Return where the files of a series are now."""
        here = self.output / row.name
        return here if here.is_dir() else self.vault.rejected(row.name)


def _checked(review: Review, place: _Place) -> Row:
    """Return the series of a review; the folder is one of the ledger, never a path of a file."""
    rows = place.ledger.below(review.folder) if review.folder.isascii() else []
    row = next((one for one in rows if one.name == review.folder), None)
    if row is None or not (row.done or row.code == Rejected.code):
        raise BadReview("this output has no such series; is it the review of another output?")
    folder = place.folder(row)
    if not folder.is_dir():
        raise MismatchError("the files of the series are gone; restore OUT from a backup")
    if digest_of_series(folder) != review.digest:
        raise MismatchError(
            "the review was made for other pixels than the series now has; "
            "make a new report and look again"
        )
    return row


def _contradictory(reviews: Iterable[Review]) -> set[str]:
    decisions: dict[str, set[str]] = {}
    for review in reviews:
        decisions.setdefault(review.folder, set()).add(review.decision)
    return {folder for folder, found in decisions.items() if len(found - {COMMENT}) > 1}


def _apply(review: Review, row: Row, place: _Place) -> None:
    """Write the decision down first, so that a killed run leaves nothing that later ones redo."""
    ledger, is_rejected = place.ledger, review.decision == REJECT
    ledger.note_review(row.name, review.decision, review.document)
    if review.decision == COMMENT:
        return
    if not is_rejected and row.done:
        note_decisions(place.output, ledger.reviewed())
        return
    here, there = place.output / row.name, place.vault.rejected(row.name)
    if is_rejected:
        _keep_entry(row, place)
        ledger.finish(row.source, record=row.record, code=Rejected.code, reason=_REASON)
        _move(here, there)
        _remove_empty(here.parent, place.output)
    else:
        _move(there, here)
    _refer(row, place, is_rejected=is_rejected)
    renew_index(place.output)
    _renew_manifest(row, place, is_rejected=is_rejected)
    if not is_rejected:
        ledger.finish(row.source, record=row.record)


def _move(here: Path, there: Path) -> None:
    """Move a folder, whole; nothing happens where it has been moved."""
    if not here.is_dir():
        return
    make_private(there.parent)
    if not there.exists():
        try:
            here.rename(there)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with WholeFolder(there) as copy:  # another file system
                for path in sorted(here.iterdir()):
                    copy.write(path.name, path.read_bytes())
    if here.is_dir():
        if digest_of_series(here) != digest_of_series(there):
            raise MismatchError("OUT and the vault hold different files of one rejected series")
        shutil.rmtree(here)
    for parent in (here.parent, there.parent):
        flush(parent)


def _remove_empty(folder: Path, output: Path) -> None:
    """Remove the folders of study and patient that hold nothing any more."""
    while folder != output and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _refer(row: Row, place: _Place, *, is_rejected: bool) -> None:
    """Make references in the files of the patient lead to what is in the output."""
    if row.name.startswith(PREFIX):
        return
    patient = row.name.split("/")[0]
    forth: dict[str, str] = {}
    back: dict[str, str] = {}
    for one in place.ledger.below(patient):
        is_in = not is_rejected if one.source == row.source else one.done
        for old, new in _uids(one, place):
            if is_in:
                forth[old] = new
            else:
                back[new] = old
    # a series of which another volume is in the output keeps its new UID
    other = {new: old for new, old in back.items() if forth.get(old) != new} | forth
    refer(place.output, {patient}, other)


def _uids(row: Row, place: _Place) -> Iterator[tuple[str, str]]:
    """Yield source's and new UIDs of a series and its instances, as its files say."""
    folder = place.folder(row)
    if not (row.done or row.code == Rejected.code) or not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        file = read(path)
        for said in derivations(file):
            yield said.source_uid, identity_of(file).sop_uid
        yield row.source.split("/")[0], text_of(file, SERIES_UID)


def _keep_entry(row: Row, place: _Place) -> None:
    """Keep what the manifest says of a series beside it, for the day that it comes back."""
    entry = next((one for one in _entries(place.output) if one["folder"] == row.name), None)
    path = _entry_file(row, place)
    if entry is not None:
        make_private(path.parent)
        with atomic(path) as stream:
            stream.write(json.dumps(entry).encode())


def _entry_file(row: Row, place: _Place) -> Path:
    folder = place.vault.rejected(row.name)
    return folder.with_name(f"{folder.name}.json")


def _entries(output: Path) -> list[dict[str, Any]]:
    return list(read_manifest(output).get("series", ()))


def _renew_manifest(row: Row, place: _Place, *, is_rejected: bool) -> None:
    """Make the manifest list the series that are in the output, and count the rejected files."""
    content = read_manifest(place.output)
    if not content:
        return
    series = [one for one in _entries(place.output) if one["folder"] != row.name]
    if not is_rejected and _entry_file(row, place).is_file():
        series.append(json.loads(_entry_file(row, place).read_bytes()))
    content["series"] = sorted(series, key=lambda one: str(one["folder"]))
    left_out = dict(content.get("left_out", {}))
    rejected = (n for n, decision in place.ledger.reviewed().items() if decision == REJECT)
    left_out[Rejected.code] = sum(
        path.suffix != ".json" for name in rejected for path in place.vault.rejected(name).glob("*")
    )
    content["left_out"] = {code: count for code, count in left_out.items() if count}
    write_json(place.output, content)
    note_decisions(place.output, place.ledger.reviewed())
