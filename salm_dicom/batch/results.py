"""What came of a run, as the vault keeps it: nothing of it sits in memory."""

from __future__ import annotations

from collections.abc import Iterator

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import Copied, Done, Index, Kept, Result
from salm_dicom.batch.objects import copied_objects
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import Changed
from salm_dicom.record import ProtectionRecord


def leave_out_failed(catalog: Catalog, ledger: Ledger) -> None:
    """Leave out the files of series that are not in the output as they are in the source."""
    for number, key, images in catalog.pages("key, images"):
        row = ledger.row(key)
        if row is None or (row.done and row.slices == images) or not (row.done or row.code):
            continue
        code, reason = row.code, row.reason
        if row.done:
            code = Changed.code
            reason = (
                f"the series has {images} slices, {row.slices} were there when it was "
                "protected; use a new output folder"
            )
        catalog.leave_out(LeftOut(path, code, reason) for path in catalog.one(number).paths)


def result_of(vault: Vault, *, resumed: int, log: list[str], index: Index | None) -> Result:
    """Return what came of a run, from what the vault keeps of it."""

    def done() -> Iterator[Done]:
        with Catalog.of(vault.catalog) as catalog, Ledger.open(vault.ledger) as ledger:
            for number, key in catalog.pages("key"):
                row = ledger.row(key)
                if row and row.done:
                    record = ProtectionRecord.from_json(row.record)
                    modality = catalog.modality(number)
                    yield Done(name=row.name, slices=row.slices, modality=modality, record=record)

    def copied() -> Iterator[Copied]:
        with Catalog.of(vault.catalog) as catalog, Ledger.open(vault.ledger) as ledger:
            yield from copied_objects(catalog, ledger)

    def left_out() -> Iterator[LeftOut]:
        with Catalog.of(vault.catalog) as catalog:
            yield from catalog.left_out()

    with Catalog.of(vault.catalog) as catalog:
        log = [*catalog.frames(), *log]
    return Result(
        done=Kept.of(done),
        copied=Kept.of(copied),
        left_out=Kept.of(left_out),
        resumed=resumed,
        index=index,
        log=tuple(log),
    )
