"""Which series of a catalog are to be protected: not changed since, not too large, with a label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from salm_dicom.batch.bounds import memory_of
from salm_dicom.batch.catalog import AnySeries, Catalog
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.masks import Masks, digest_key, mask_of
from salm_dicom.batch.review import Rejected
from salm_dicom.batch.source import load
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import Changed, NoLabel, PlanError, TooLarge
from salm_dicom.folder import digest_of_files
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask
from salm_dicom.protector.target import names_of
from salm_dicom.volume import Volume

if TYPE_CHECKING:
    from salm_dicom.protector.fit import Study


class Given(Protocol):
    """What says which label a series has: `Labels` or `Masks`."""

    def of(self, series: AnySeries) -> str:
        """Return the label of a series; raise `NoLabel` where it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Labels and the place of masks, as far as an operator gave them."""

    source: Path
    labels: Labels | None = None
    masks: Path | None = None

    def given(self, catalog: Catalog, plan: ProtectionPlan) -> Given:
        """Return what the plan's objective needs.

        Raises
        ------
        PlanError
            It was not given, or the other one was.
        """
        if plan.needs_masks:
            if self.masks is None or self.labels is not None:
                raise PlanError(
                    "objective segmentation needs masks and no labels: give --masks PATH alone, a "
                    "folder of SEG, RTSTRUCT or NIfTI masks, or SOURCE itself"
                )
            return Masks(self.masks, self.source, catalog)
        if self.masks is not None:
            raise PlanError("masks are labels of --objective segmentation; give that, or --labels")
        if self.labels is None:
            raise PlanError(
                f"method {plan.method} needs labels: give --labels labels.csv, "
                "--label-free to protect what looks alike, or --method random, which needs none"
            )
        return self.labels


def label(catalog: Catalog, plan: ProtectionPlan, asked: Asked) -> None:
    """Give the series of the catalog their labels; those that lack one they need are left out.

    Raises
    ------
    PlanError, NoLabel
        Labels or masks are needed, and there are none, or no series has one.
    """
    if plan.label_free and plan.needs_surrogate and (asked.labels or asked.masks):
        raise PlanError("--label-free makes its own labels; leave out --labels and --masks")
    if not plan.needs_labels:
        catalog.label_all()
        return
    given = asked.given(catalog, plan)
    for entry in catalog.series():
        try:
            text = given.of(entry.series)
            names_of(text, plan.objective)
            catalog.set_label(entry.number, text)
        except NoLabel as error:
            catalog.leave_out(LeftOut(p, error.code, str(error)) for p in entry.series.paths)
    if not catalog.count(where="is_in AND is_labelled"):
        hint = "is --masks right?" if plan.needs_masks else "is --labels-by right?"
        raise NoLabel(f"no series of the export has a label; {hint}")


def studies(catalog: Catalog, plan: ProtectionPlan) -> tuple[list[Study], list[int]]:
    """Return what a fit needs of labelled series, and their numbers in the catalog.

    Each series is read when it is its turn.
    """
    from salm_dicom.protector.fit import Study

    def study(number: int, name: str) -> Study:
        def volume() -> Volume:
            return load(catalog.one(number))

        def digest() -> str:
            content = digest_of_files(catalog.one(number).paths)
            return f"{content}/{digest_key(plan, name)}" if plan.needs_masks else content

        def mask() -> Mask:
            return mask_of(catalog.one(number), name)

        if plan.needs_masks:
            return Study(load=volume, mask=mask, digest=digest)
        return Study(load=volume, label=name, digest=digest)

    labelled = list(catalog.pages("label", where="is_in AND is_labelled"))
    return [study(number, str(name)) for number, name in labelled], [n for n, _ in labelled]


def leave_out_unfit(catalog: Catalog, number: int, code: str, reason: str) -> None:
    """Leave out a series that a fit could not read."""
    paths = catalog.one(number).paths
    catalog.drop(number, "series", (LeftOut(path, code, reason) for path in paths))


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
