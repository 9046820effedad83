"""What an audit was asked for on the command line, and what that means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salm_dicom.victims import SEGMENTERS, VICTIMS

if TYPE_CHECKING:
    from salm_dicom.audit.experiment import Settings
    from salm_dicom.audit.subjects import View
    from salm_dicom.batch.counterparts import Pair
    from salm_dicom.batch.labels import Labels
    from salm_dicom.dicom.scan import LeftOut

# Rows of the table in audit/; written again here because help must not wait for torch.
COUNTERMEASURES = (
    "shift_flip", "jpeg90", "jpeg50", "jpeg10", "8bit", "2bit", "blur0.5", "blur1", "blur2",
    "median3", "median5", "half", "projection", "cutout", "cutmix", "mixup", "ueraser",
    "adversarial", "slow", "clean20", "clean40", "clean60", "clean80", "pretrained", "frozen",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says."""

    source: Path
    output: Path
    labels: Path | None
    labels_by: str
    masks: Path | None
    objective: str | None
    modality: str | None
    vault: Path | None
    split_by: str
    fitted_labels: Path | None
    victims: str | None
    seeds: int
    epochs: int | None
    countermeasures: str
    weights: Path | None
    coverage: str
    extent: str
    size: int | None
    slices: int
    intensity_range: tuple[float, float] | None
    require: float | None
    jobs: int
    device: str
    json_file: Path | None
    plots: Path | None
    progress: str
    log_file: Path | None

    @property
    def task(self) -> str:
        """What victims learn."""
        return self.objective or ("classification" if self.masks is None else "segmentation")


def settings_of(asked: Asked) -> Settings:
    """Return what an audit is to try."""
    from salm_dicom.audit.experiment import Settings
    from salm_dicom.errors import PlanError
    from salm_dicom.protector.device import device_of

    check_given(asked)
    usual = tuple(VICTIMS)[:3] if asked.masks is None else tuple(SEGMENTERS)
    try:
        coverage = tuple(int(share) for share in _names(asked.coverage))
    except ValueError as error:
        raise PlanError("--coverage needs whole numbers, as in 20,40,60,80,100") from error
    return Settings(
        task=asked.task,
        victims=usual if asked.victims is None else _names(asked.victims),
        seeds=asked.seeds,
        epochs=asked.epochs,
        countermeasures=_measures(asked),
        coverage=coverage,
        weights=asked.weights,
        device=device_of(asked.device),
    )


def _measures(asked: Asked) -> tuple[str, ...]:
    """Return the countermeasures; weights that are given are used, and `all` does without."""
    from salm_dicom.audit.countermeasures import COUNTERMEASURES, WITH_WEIGHTS

    names = _names(asked.countermeasures)
    if names == ("all",):
        of_task = (n for n, one in COUNTERMEASURES.items() if asked.task in one.tasks)
        names = tuple(n for n in of_task if n not in ("none", *WITH_WEIGHTS))
    return names if asked.weights is None else tuple(dict.fromkeys((*names, *WITH_WEIGHTS)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def check_given(asked: Asked) -> Path:
    """Return the file of labels or the place of masks; refuse both or neither."""
    from salm_dicom.errors import PlanError

    given = [path for path in (asked.labels, asked.masks) if path is not None]
    if len(given) != 1 or (asked.masks is None) == (asked.task == "segmentation"):
        raise PlanError(
            "an audit needs labels or masks: give --labels labels.csv, or --masks PATH alone, a "
            "folder of SEG, RTSTRUCT or NIfTI masks, or SOURCE itself (objective segmentation)"
        )
    return given[0]


def view_of(asked: Asked) -> View:
    """Return how victims are to see a series."""
    from salm_dicom.audit.subjects import View
    from salm_dicom.plan import ProtectionPlan

    default = ProtectionPlan()
    slices, *edges = default.volume_size
    if asked.size is not None:
        edges = [asked.size, asked.size]
    plan = ProtectionPlan(
        method="random",
        objective=asked.task,
        extent=asked.extent,
        intensity_range=asked.intensity_range,
        slice_size=(asked.size, asked.size) if asked.size else default.slice_size,
        volume_size=(slices, edges[0], edges[1]),
    )
    return View(plan=plan, slices=asked.slices)


def check_places(asked: Asked) -> None:
    """Refuse to write where images are."""
    from salm_dicom.errors import UnsafeError

    for place in (asked.json_file, asked.plots):
        for images in (asked.source.resolve(), asked.output.resolve()):
            if place is not None and images in (place.resolve(), *place.resolve().parents):
                raise UnsafeError("--json and --plots must lie outside SOURCE and OUT")


def pairs_of(asked: Asked) -> tuple[list[Pair], list[LeftOut]]:
    """Return the labelled series of SOURCE that are in OUT, and every other file."""
    from salm_dicom.batch.counterparts import pairs
    from salm_dicom.batch.deidentify import existing

    cleaner = existing(asked.vault or asked.output.with_name(f"{asked.output.name}.vault"))
    return pairs(
        asked.source,
        asked.output,
        _read(asked, check_given(asked)),
        split_by=asked.split_by,
        fitted=None if asked.fitted_labels is None else _read(asked, asked.fitted_labels),
        modality=asked.modality,
        source_uid=str if cleaner is None else cleaner.uid,
    )


def _read(asked: Asked, path: Path) -> Labels | Path:
    """Return labels, or where masks are."""
    from salm_dicom.batch.labels import Labels

    if asked.masks is not None:
        return path
    return Labels.read(path, by=asked.labels_by, root=asked.source)
