"""Run: an audit from the subjects to the summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from salm_dicom.audit.backbones import checked
from salm_dicom.audit.countermeasures import WITH_WEIGHTS
from salm_dicom.audit.dataset import Dataset, Progress, dataset
from salm_dicom.audit.experiment import Found, Settings, planned, run, why_not_late
from salm_dicom.audit.split import FEWEST
from salm_dicom.audit.subjects import Subject, View
from salm_dicom.audit.summary import Summary, summarise
from salm_dicom.errors import PlanError


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was asked for, what it was asked of, and what came of it.

    Parameters
    ----------
    found
        Trials so far, in the order they were planned.
    planned
        How many trials there are.
    summary
        None while trials are still to come.
    not_measured
        What an audit should say and this one cannot, with the reason.
    weights
        SHA-256 of what each victim begins with, for countermeasures that have a backbone.
    """

    settings: Settings
    view: View
    jobs: int
    data: Dataset
    planned: int
    not_measured: dict[str, str]
    weights: Mapping[str, str]
    found: tuple[Found, ...] = ()
    summary: Summary | None = None

    def reaches(self, wanted: float) -> bool:
        """Whether the protection is at least `wanted` with every countermeasure that was tried."""
        return self.summary is not None and all(
            row.reaches(wanted) for row in self.summary.countermeasures
        )


def audit(
    subjects: Sequence[Subject],
    settings: Settings,
    view: View,
    *,
    jobs: int = 1,
    note: Callable[[Audit], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> Audit:
    """Return what victims learn from the protected series of the subjects.

    Parameters
    ----------
    jobs
        Processes; with any number the result is the same.
    note
        Called with what is known so far after every trial, and at the end.

    Raises
    ------
    TooFew
        There are too few patients or labels.
    PlanError
        Settings and view are of different tasks, or a victim's weights cannot be used.
    """
    if settings.task != view.plan.objective:
        raise PlanError(
            f"the settings are for {settings.task}, the view for {view.plan.objective}; both need "
            "the same"
        )
    weights = settings.weights
    known = {} if weights is None else checked(weights, settings.victims, view.size)
    data = dataset(subjects, view, progress)
    specs = planned(settings, data)
    so_far = Audit(
        settings=settings, view=view, jobs=jobs, data=data, planned=len(specs),
        not_measured=_not_measured(settings, data), weights=known,
    )  # fmt: skip
    places = {spec: place for place, spec in enumerate(specs)}
    progress("trials", 0, len(specs))
    for one in run(data, specs, settings, jobs):
        found = sorted((*so_far.found, one), key=lambda other: places[other.spec])
        so_far = replace(so_far, found=tuple(found))
        note(so_far)
        progress("trials", len(found), len(specs))
    done = replace(so_far, summary=summarise(so_far.found, data))
    note(done)
    return done


def _not_measured(settings: Settings, data: Dataset) -> dict[str, str]:
    missing = {}
    if not set(WITH_WEIGHTS).intersection(settings.countermeasures):
        reason = "needs weights from elsewhere, --weights; nothing is downloaded"
        missing["frozen or pre-trained backbone"] = reason
    if data.rare:
        why = f"fewer than {FEWEST} patients show them; victims see no class there"
        missing[f"classes {', '.join(data.rare)}"] = why
    reason = why_not_late(data)
    return {"late arrival": reason, **missing} if reason else missing
