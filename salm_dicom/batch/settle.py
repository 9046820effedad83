"""Make the references of an output agree with what really is in it.

Files are written with the new UIDs of everything that is planned. Where a series then fails,
references to it go back to its source; where a later run protects it after all, or an export has
grown, references in files that an earlier run wrote go forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from salm_dicom import __version__
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.ledger import Ledger, Table
from salm_dicom.batch.masks import digest_key
from salm_dicom.batch.uids import new_uids
from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.references import replaced
from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.splice import file_meta, splice
from salm_dicom.dicom.unchanged import UidPair
from salm_dicom.errors import NoLabel
from salm_dicom.folder import atomic
from salm_dicom.protector import Protector

# Row in the ledger, and old and new UIDs, of everything that a run wants in the output.
Planned = Callable[[], Iterator[tuple[Table, str, Iterator[UidPair]]]]


def planned(
    catalog: Catalog, protector: Protector, site_key: bytes, source_uid: NewUid = str
) -> Iterator[tuple[Table, str, Iterator[UidPair]]]:
    """Yield what is to be in the output: its row in the ledger, and its old and new UIDs.

    NIfTI files have none.

    Parameters
    ----------
    source_uid
        Returns the UID that a UID of the source has before it is protected: of the de-identified
        instance, where that is what gets protected.
    """
    for entry in catalog.series("is_in AND is_labelled AND kind = 'dicom'"):
        with suppress(NoLabel):  # the series will be left out
            digest = protector.digest_for(digest_key(protector.plan, entry.label))
            pairs = _pairs(catalog, entry.number, site_key, digest, source_uid)
            yield "series", entry.key, pairs
    for one in catalog.objects():
        own, series_uid = source_uid(one.sop_uid), source_uid(one.series_uid)
        pairs = new_uids(site_key, protector.digest, [own], series_uid)
        yield "objects", one.sop_uid, pairs


def _pairs(
    catalog: Catalog, number: int, site_key: bytes, digest: str, source_uid: NewUid
) -> Iterator[UidPair]:
    """Yield old and new UIDs of a series; its files are looked up when that is asked for."""
    instances, series_uid = catalog.uids(number)
    yield from new_uids(site_key, digest, map(source_uid, instances), source_uid(series_uid))


def settle(output: Path, ledger: Ledger, planned: Planned) -> int:
    """Write the files anew whose references are not what they should be; return how many.

    Only patients are looked at of whom something failed, or came to an output that was settled
    before. Killed in between, the next run does it again.
    """
    before = ledger.was_settled()
    patients: set[str] = set()
    for table, source, _ in planned():
        row = ledger.row(source, table)
        if row and not (row.done and (ledger.is_settled(source) or not before)):
            patients.add(_patient(row.name))
    forth: dict[str, str] = {}
    back: dict[str, str] = {}
    for table, source, pairs in planned() if patients else ():
        row = ledger.row(source, table)
        if row and _patient(row.name) in patients:
            for old, new in pairs:
                if row.done:
                    forth.setdefault(old, new)
                else:
                    back[new] = old
    # a series of which another volume is done keeps its new UID
    other = {new: old for new, old in back.items() if forth.get(old) != new} | forth
    count = refer(output, patients, other)
    ledger.settle()
    return count


def refer(output: Path, patients: set[str], other: dict[str, str]) -> int:
    """Replace UIDs in the files of some patients; return how many files were written anew."""
    return sum(_settle_file(path, other) for path in _files(output, patients))


def _patient(name: str) -> str:
    return name.split("/")[0]


def _files(output: Path, patients: set[str]) -> Iterator[Path]:
    for patient in sorted(patients):
        yield from sorted(p for p in (output / patient).rglob("*") if p.is_file())


def _settle_file(path: Path, other: dict[str, str]) -> bool:
    """Replace what is not right in one file; the source that an image names is never replaced."""
    file = read(path)
    identity = identity_of(file)

    def new(uid: str) -> str:
        found = other.get(uid, uid)
        return uid if found == identity.sop_uid else found

    changes = replaced(file, new)
    if not changes:
        return False
    meta = file_meta(identity.sop_class, identity.sop_uid, file.transfer_syntax, __version__)
    with atomic(path) as stream:
        stream.write(splice(file, changes, meta))
    return True
