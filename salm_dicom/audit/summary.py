"""Summary: what the trials of an audit say, in numbers with their spread and in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import torch
from torch import Tensor

from salm_dicom.audit.countermeasures import COUNTERMEASURES
from salm_dicom.audit.dataset import Dataset
from salm_dicom.audit.experiment import NONE, Found
from salm_dicom.audit.interval import Draws, Interval
from salm_dicom.audit.score import LEARNED, PARTIAL, WEAK, protection_if_any, verdict

# What a victim that learned from clean images made of the test images, and one of protected ones.
Evidence = tuple[Tensor, Tensor]
# Fewer patients to test on tell nothing: drawing them again cannot show how they differ.
_FEWEST = 3
# Fewer than this are warned of: one of them decides much.
FEW = 10
# Against dividing by nearly nothing in a single draw.
_LEAST_GAIN = 0.05
# A victim without countermeasure that has labelled clean images to choose its epoch on.
CLEAN_CHOICE = "clean_choice"
NOTHING = "nothing can be said"
UNCERTAIN = "cannot be told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Victims of one kind of trial, against the same victims trained on clean images.

    Parameters
    ----------
    countermeasure, coverage, group
        See `Spec`; or `clean_choice`: none, but the epoch is chosen on clean images.
    clean, protected
        Mean score (balanced accuracy, Dice) on clean test images, 0 to 1.
    protection
        Normalised protection; None where clean victims learn nothing.
    of_runs
        That of each victim and seed by itself; None where its clean victim learned too little.
    restored
        Share of the loss without countermeasure that this one gives back; None where nothing was
        lost, or for the trials without countermeasure.
    verdict
        In plain words; begins with one of a few phrases and a colon.
    clean_auc, protected_auc
        Mean area under the ROC curve of the same victims on the same images, 0.5 is guessing;
        None where the epoch is chosen otherwise.
    """

    countermeasure: str
    coverage: int
    group: str
    clean: Interval
    protected: Interval
    protection: Interval | None
    of_runs: tuple[float | None, ...]
    verdict: str
    restored: float | None = None
    clean_auc: float | None = None
    protected_auc: float | None = None

    @property
    def word(self) -> str:
        """The verdict's phrase."""
        return self.verdict.split(":")[0]

    @property
    def is_certain(self) -> bool:
        """Whether the verdict says something about the protection."""
        return self.word not in (NOTHING, UNCERTAIN)

    def reaches(self, wanted: float) -> bool:
        """Whether the mean normalised protection is at least `wanted`, and can be believed."""
        return self.protection is not None and self.is_certain and self.protection.value >= wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Utility:
    """How the score of models trained on clean images changes on protected ones, points of 100.

    Parameters
    ----------
    mean
        Over victims and seeds.
    largest
        Of one victim, in either direction.
    """

    mean: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Everything an audit found.

    Parameters
    ----------
    countermeasures
        All patients protected; the first row is without countermeasure.
    coverage
        Without countermeasure, by the share of patients that is protected; largest first.
    victims
        Without countermeasure, of each victim by itself.
    late
        Trained on patients the protector was fitted on, and on others; empty: not measured.
    score
        What the score is called, see `Task`.
    """

    countermeasures: tuple[Row, ...]
    coverage: tuple[Row, ...]
    victims: dict[str, Row]
    late: tuple[Row, ...]
    utility: Utility
    score: str


def summarise(found: Sequence[Found], data: Dataset) -> Summary:
    """Return what the trials say; `found` in any order, but complete."""
    by_kind: dict[tuple[str, int, str], list[Found]] = {}
    for one in sorted(found, key=lambda one: (one.spec.victim, one.spec.seed)):
        kind = (one.spec.countermeasure, one.spec.coverage, one.spec.group)
        by_kind.setdefault(kind, []).append(one)
    draws = Draws(labels=data.test.clean.labels, patients=data.test.patients)
    chance = data.chance
    clean, attacks = by_kind[NONE, 0, "all"], by_kind[NONE, 100, "all"]
    rows = {
        kind: _of_found(kind, by_kind[kind[0], 0, kind[2]], runs, draws, chance)
        for kind, runs in by_kind.items()
        if kind[1]
    }
    none = rows.pop((NONE, 100, "all"))
    chosen = [
        (a.evidence_by_clean, b.evidence_by_clean) for a, b in zip(clean, attacks, strict=True)
    ]
    by_clean = _row((CLEAN_CHOICE, 100, "all"), chosen, draws, chance)
    others = [row for row in rows.values() if row.countermeasure != NONE]
    return Summary(
        countermeasures=(none, *(_with_restored(row, none) for row in (by_clean, *others))),
        coverage=(none, *(row for row in rows.values() if row.coverage < 100)),
        victims=_by_victim(clean, attacks, draws, chance),
        late=tuple(row for row in rows.values() if row.group != "all"),
        utility=_utility(clean, draws),
        score=data.task.score,
    )


def _by_victim(
    clean: Sequence[Found], attacks: Sequence[Found], draws: Draws, chance: float
) -> dict[str, Row]:
    kinds: dict[str, list[tuple[Found, Found]]] = {}
    for one, other in zip(clean, attacks, strict=True):
        kinds.setdefault(one.spec.victim, []).append((one, other))
    return {
        name: _of_found(
            (NONE, 100, "all"), [a for a, _ in runs], [b for _, b in runs], draws, chance
        )
        for name, runs in kinds.items()
    }


def _of_found(
    kind: tuple[str, int, str],
    clean: Sequence[Found],
    runs: Sequence[Found],
    draws: Draws,
    chance: float,
) -> Row:
    pairs = [(a.evidence, b.evidence) for a, b in zip(clean, runs, strict=True)]
    row = _row(kind, pairs, draws, chance)
    return replace(row, clean_auc=_area(clean), protected_auc=_area(runs))


def _area(runs: Sequence[Found]) -> float | None:
    areas = [one.trial.auc for one in runs if one.trial.auc is not None]
    return fmean(areas) if areas else None


def _row(kind: tuple[str, int, str], runs: Sequence[Evidence], draws: Draws, chance: float) -> Row:
    drawn_clean, drawn = (draws.scores(torch.stack(list(some))) for some in zip(*runs, strict=True))
    clean = Interval.of(drawn_clean)
    gain = (drawn_clean - chance).clamp(min=_LEAST_GAIN)
    is_learned = clean.low > chance and clean.value - chance >= LEARNED
    protection = Interval.of((drawn_clean - drawn) / gain) if is_learned else None
    return Row(
        countermeasure=kind[0],
        coverage=kind[1],
        group=kind[2],
        clean=clean,
        protected=Interval.of(drawn),
        protection=protection,
        of_runs=tuple(_of_run(run, draws, chance) for run in runs),
        verdict=judged(clean, protection, chance, draws.fewest),
    )


def _of_run(run: Evidence, draws: Draws, chance: float) -> float | None:
    clean, protected = (draws.score(one) for one in run)
    return protection_if_any(clean, protected, chance)


def judged(clean: Interval, protection: Interval | None, chance: float, patients: int = FEW) -> str:
    """Return what a row means, in plain words that say when nothing can be concluded.

    Parameters
    ----------
    patients
        To test on, of the label that has fewest.
    """
    if protection is None:
        return (
            f"{NOTHING}: victims trained on clean images reach {clean.value:.2f} "
            f"({clean.low:.2f} to {clean.high:.2f}), chance is {chance:.2f}. Use more images, "
            "train longer, or another countermeasure"
        )
    if patients < _FEWEST:
        return (
            f"{UNCERTAIN}: a label has {patients} patients to test on, at least {_FEWEST} are "
            f"needed ({5 * _FEWEST} patients in all)"
        )
    value, low, high = protection.value, protection.low, protection.high
    between = f"{100 * low:.0f} to {100 * high:.0f} %"
    if (value >= WEAK and low <= 0) or (value < WEAK and high >= PARTIAL):
        return (
            f"{UNCERTAIN}: {100 * value:.0f} % was lost, but anything from {between} fits. The "
            "spread is larger than the effect; use more test patients or more seeds"
        )
    return f"{verdict(value)} ({between})"


def _with_restored(row: Row, none: Row) -> Row:
    """Return a row that says how much of the loss without countermeasure it gives back."""
    lost = none.clean.value - none.protected.value
    if row is none or not none.reaches(WEAK):
        return row
    return replace(row, restored=(row.protected.value - none.protected.value) / lost)


def sentence(row: Row) -> str:
    """Return the verdict on one countermeasure as a sentence."""
    if row.restored is None or not row.is_certain:
        return row.verdict
    if row.restored <= 0:
        return f"restores nothing of the loss; {row.verdict}"
    return f"restores {100 * min(row.restored, 1):.0f} % of the loss; {row.verdict}"


def name_of(row: Row) -> str:
    """Return the exact setting of a row's countermeasure."""
    if row.countermeasure == NONE:
        return "no countermeasure"
    if row.countermeasure == CLEAN_CHOICE:
        return "none, but labelled clean images to stop the training by"
    return COUNTERMEASURES[row.countermeasure].setting


def _utility(clean_runs: Sequence[Found], draws: Draws) -> Utility:
    changes = [
        100 * (draws.score(one.evidence_protected) - draws.score(one.evidence))
        for one in clean_runs
        if one.evidence_protected is not None
    ]
    return Utility(mean=fmean(changes), largest=max(changes, key=abs))
