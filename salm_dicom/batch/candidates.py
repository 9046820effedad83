"""Which series of a catalog are to be protected: not changed since, not too large, with a label."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from salm_dicom.batch.bounds import memory_of
from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.review import Rejected
from salm_dicom.batch.source import load
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import Changed, NoLabel, PlanError, TooLarge
from salm_dicom.plan import ProtectionPlan
from salm_dicom.volume import Volume

if TYPE_CHECKING:
    from salm_dicom.protector.fit import Study


def label(catalog: Catalog, plan: ProtectionPlan, labels: Labels | None) -> None:
    """Give the series of the catalog their labels; those that lack one they need are left out.

    Raises
    ------
    PlanError, NoLabel
        Labels are needed, and there are none, or no series has one.
    """
    if not plan.needs_surrogate:
        catalog.label_all()
        return
    if labels is None:
        raise PlanError(
            f"method {plan.method} needs labels: give --labels labels.csv, "
            "or use --method random, which needs none"
        )
    for entry in catalog.series():
        try:
            catalog.set_label(entry.number, labels.of(entry.series))
        except NoLabel as error:
            catalog.leave_out(LeftOut(p, error.code, str(error)) for p in entry.series.paths)
    if not catalog.count(where="is_in AND is_labelled"):
        raise NoLabel("no series of the export has a label; is --labels-by right?")


def studies(catalog: Catalog) -> list[Study]:
    """Return what a fit needs of labelled series; each is read when it is its turn."""
    from salm_dicom.protector.fit import Study

    def loader(number: int) -> Callable[[], Volume]:
        return lambda: load(catalog.one(number))

    labelled = catalog.pages("label", where="is_in AND is_labelled")
    return [Study(label=str(name), load=loader(number)) for number, name in labelled]


def leave_out_large(
    catalog: Catalog, ledger: Ledger, plan: ProtectionPlan, max_memory: int
) -> None:
    """Leave out the series that need more memory than there may be, unless they are done."""
    for entry in catalog.series() if max_memory else ():
        needed = memory_of(entry.series.voxels, entry.series.images, plan)
        if needed > max_memory and not ledger.is_done(entry.key):
            text = (
                f"needs about {needed / 1e9:.1f} GB of memory, --max-memory allows "
                f"{max_memory / 1e9:.1f}; give it more, or protect it on a larger machine"
            )
            out = (LeftOut(path, TooLarge.code, text) for path in entry.series.paths)
            catalog.drop(entry.number, "series", out)


def leave_out_changed(catalog: Catalog, ledger: Ledger) -> None:
    """Leave out series whose protected volume is no longer in the source as it was.

    Protecting them again would give one SOP Instance UID to two files with different pixels.
    """
    kept = (row for row in ledger.rows() if row.done or row.code == Rejected.code)
    lost = {row.source.split("/")[0] for row in kept if not catalog.has(row.source)}
    text = "the series has other slices than when it was protected; use a new output folder"
    for entry in catalog.series() if lost else ():
        if entry.series.series_uid in lost and ledger.row(entry.key) is None:
            out = (LeftOut(path, Changed.code, text) for path in entry.series.paths)
            catalog.drop(entry.number, "series", out)
