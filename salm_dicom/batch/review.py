"""Review: what a person who looked at a series decided, as a report's page writes it to a file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.pixels import PIXEL_DATA
from salm_dicom.errors import InputError
from salm_dicom.nifti.image import is_nifti

SCHEMA = "salm_dicom review 1"
ACCEPT, REJECT, COMMENT = "accept", "reject", "comment"
DECISIONS = (ACCEPT, REJECT, COMMENT)
# A page allows comments of 4000 characters; escaped, each takes up to twelve bytes.
_MOST_BYTES = 100_000


class Rejected(InputError):
    """A reviewer rejected the protected series; it is kept in the vault, not in the output."""

    code = "E_REJECTED"


class BadReview(InputError):
    """A file is no review, or is one of something that this output does not hold."""

    code = "E_REVIEW"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One person's decision on one series.

    Parameters
    ----------
    schema
        `SCHEMA`: what the fields are.
    folder
        Of the series, in OUT.
    digest
        `digest_of_series` of that folder when the report was made.
    decision
        One of `DECISIONS`; a comment alone changes nothing in OUT.
    comment, reviewer, reviewed
        What was written, by whom if they said, and when by their clock. Kept in the vault only.
    salm_dicom
        Version that made the page.
    """

    schema: str
    folder: str
    digest: str
    decision: str
    comment: str = ""
    reviewer: str = ""
    reviewed: str = ""
    salm_dicom: str = ""

    @property
    def document(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)


def read_review(path: Path) -> Review:
    """Return the review of a file; anybody may have written it.

    Raises
    ------
    BadReview
        The file is too large, no JSON, or no review of this version.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MOST_BYTES + 1)
        found = json.loads(raw) if len(raw) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise BadReview(f"the file is no JSON that can be read ({type(error).__name__})") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise BadReview(f"the file is no review; its schema must be {SCHEMA!r}")
    known = {field.name for field in fields(Review)}
    needed = {"schema", "folder", "digest", "decision"}
    if not (needed <= found.keys() <= known and all(isinstance(v, str) for v in found.values())):
        raise BadReview(
            f"a review has texts under {', '.join(sorted(known))} and nothing else; "
            "download it again from the report"
        )
    if found["decision"] not in DECISIONS:
        raise BadReview(f"the decision must be one of {', '.join(DECISIONS)}")
    return Review(**found)


def digest_of_series(folder: Path) -> str:
    """Return the SHA-256 of what a reviewer of a series sees: its instances and their pixels.

    References to other series are no part of it, so that reviews of several series can be applied
    one after the other. A file that cannot be read counts with all its bytes.
    """
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".json"]
    lines = "\n".join(sorted(map(_line, files)))
    return f"sha256:{hashlib.sha256(lines.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _line(path: Path) -> str:
    if not is_nifti(path):
        try:
            file = read(path)
            pixels = hashlib.sha256(file.view(PIXEL_DATA)).hexdigest()
            return f"{identity_of(file).sop_uid} {file.transfer_syntax} {pixels}"
        except InputError:
            pass
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"
