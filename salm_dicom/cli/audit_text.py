"""What an audit prints: tables and a verdict that can be read without knowing the method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from salm_dicom.audit.interval import Interval
    from salm_dicom.audit.run import Audit
    from salm_dicom.audit.summary import Row, Summary

# Wanted: a clean model's score on protected images changes by at most so many points.
_UTILITY_POINTS = 1.0


def lines(audit: Audit) -> Iterator[str]:
    """Yield the lines of a finished audit."""
    summary = audit.summary
    if summary is None:
        return
    yield from _head(audit)
    rows = [(row.countermeasure, row) for row in summary.countermeasures]
    yield from _table("victims may use", rows)
    if len(summary.victims) > 1:
        yield from _table("victim", summary.victims.items())
    if len(summary.coverage) > 1:
        yield from _table("protected", [(f"{row.coverage} %", row) for row in summary.coverage])
    if summary.late:
        yield from _table("patients", [(_GROUPS[row.group], row) for row in summary.late])
    yield ""
    yield from _areas(summary)
    yield from _utility(summary)
    for what, reason in audit.not_measured.items():
        yield f"Not measured: {what} ({reason})"
    yield ""
    yield from _verdicts(audit, summary)


_GROUPS = {"early": "the fit's", "late": "arrived late"}


def _head(audit: Audit) -> Iterator[str]:
    data, settings = audit.data, audit.settings
    what = data.task.what.capitalize()
    guessing = f"Guessing scores {data.chance:.2f}, a perfect model 1.00"
    yield f"{what}: {', '.join(data.classes)}. {guessing}"
    for name, side in data.sides().items():
        patients = len(set(side.patients.tolist()))
        text = f"  {name + ':':<12}{patients} patients, {len(side.patients)} images"
        bare = int((~side.shows.any(1)).sum())
        yield f"{text}, {bare} of them without any class" if bare else text
    victims = f"{', '.join(settings.victims)}; {settings.seeds} of each"
    size = " x ".join(map(str, audit.view.size))
    yield f"Victims: {victims}, trained {_epochs(audit)} times over all images of {size}"
    yield f"Scores: mean {data.task.score} on clean images of patients that no victim has seen;"
    yield "lost: share of what could be learned, 0 % protects nothing, 100 % leaves guessing"


def _epochs(audit: Audit) -> str:
    epochs = [one.epochs for one in audit.found]
    low, high = min(epochs), max(epochs)
    return str(low) if low == high else f"{low} to {high}"


def _numbers(row: Row) -> tuple[str, str, str, str]:
    found = row.protection
    scores = (f"{row.clean.value:.2f}", f"{row.protected.value:.2f}")
    if found is None:
        return (*scores, "?", "clean victims learn nothing")
    return (*scores, _percent(found.value), _between(found))


def _between(found: Interval) -> str:
    return f"{_percent(found.low)} to {_percent(found.high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _areas(summary: Summary) -> Iterator[str]:
    none = summary.countermeasures[0]
    if none.clean_auc is not None and none.protected_auc is not None:
        yield (
            f"Area under the ROC curve on the same images, 0.50 is guessing: learned clean "
            f"{none.clean_auc:.2f}, learned protected {none.protected_auc:.2f}"
        )


def _utility(summary: Summary) -> Iterator[str]:
    found = summary.utility
    kept = "kept" if abs(found.mean) <= _UTILITY_POINTS else "NOT kept"
    yield (
        f"Use: on protected images, the score of models trained on clean ones changes by "
        f"{found.mean:+.1f} points; at most {_UTILITY_POINTS:g} wanted: {kept}"
    )


def _verdicts(audit: Audit, summary: Summary) -> Iterator[str]:
    from salm_dicom.audit.interval import Draws
    from salm_dicom.audit.summary import FEW, name_of, sentence

    yield "Verdict"
    for row in summary.countermeasures:
        yield f"  {name_of(row)}:"
        yield f"      {sentence(row)}"
    test = audit.data.test
    fewest = Draws(labels=test.clean.labels, patients=test.patients).fewest
    if fewest < FEW:
        yield (
            f"  Take care: a label has {fewest} test patients only; each decides much, and "
            "intervals are too narrow"
        )


def _table(what: str, rows: Iterable[tuple[str, Row]]) -> Iterator[str]:
    table = [(what, "learned clean", "learned protected", "lost", "95 % of draws")]
    table += [(name, *_numbers(row)) for name, row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    yield ""
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {line.rstrip()}"
