"""What verify found, and the pixels that it saw, as the sheets and the summary of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salm_dicom.batch.compared import Compared
from salm_dicom.batch.sheet_pixels import Stack, charts_of, notes_of, view_of
from salm_dicom.batch.sheet_scene import notes_of_scene, scene_of, why_no_scene
from salm_dicom.batch.verified import Verification, Verified, row_of
from salm_dicom.fidelity import MEASURES, ROWS, Check
from salm_dicom.report import Entry, Row, Scene, Sheet, Summary, View
from salm_dicom.report.sheet import LESS, MISSED, RIGHT, WRONG

CANVAS, NIIVUE = "canvas", "niivue"
VIEWERS = (CANVAS, NIIVUE)
_LISTED = 20
_VERDICTS = {
    RIGHT: "Every check passed, every limit is met",
    MISSED: "A limit of fidelity is missed",
    WRONG: "Wrong: do not share this",
}
_WORDS = {RIGHT: "ok", MISSED: "limit missed", WRONG: "WRONG"}
_HEAD = ("modality", "slices", "PSNR", "SSIM", "mean shift", "largest change", "changed")


def judgement(verified: Verified) -> tuple[str, str, tuple[str, ...]]:
    """Return verdict, state, and a sentence for each problem of a series."""
    state = WRONG if verified.findings else MISSED if verified.missed else RIGHT
    problems = [f"{finding.code}: {finding.text}" for finding in verified.findings[:_LISTED]]
    if len(verified.findings) > _LISTED:
        left = len(verified.findings) - _LISTED
        problems.append(f"... and {left} more; `salm-dicom verify --json` lists all")
    verdict = _VERDICTS[state] + _less(verified) * (state == RIGHT)
    if verified.fidelity is None and state == RIGHT:
        verdict = "Every check passed; nothing could be measured for want of foreground"
    return verdict, state, (*problems, *(f"limit missed: {text}" for text in verified.missed))


def _less(*verified: Verified) -> str:
    """Return how many numbers are not what is wanted, as the end of a verdict; empty for none."""
    count = sum(not check.is_wanted for one in verified for check in one.checks)
    if not count:
        return ""
    return f"; {count} number{'s are' if count > 1 else ' is'} not as wanted"


def sheet_of(
    verified: Verified,
    pixels: Sequence[Compared],
    stated: dict[str, Any],
    cap: int,
    viewer: str = CANVAS,
) -> Sheet:
    """Return the page of one series; the verdict is that of what is known so far.

    Parameters
    ----------
    stated
        The manifest of the output.
    cap
        Most characters that the embedded pixels take.
    viewer
        One of `VIEWERS`; what `niivue` cannot show as a volume gets the other.
    """
    verdict, state, problems = judgement(verified)
    stack = Stack.of(pixels) if pixels else None
    shown = _Shown() if stack is None else _shown(stack, cap, viewer)
    units = "HU" if verified.modality == "CT" else "modality units"
    facts = (verified.modality, f"{verified.slices} slice{'s' * (verified.slices != 1)}")
    return Sheet(
        name=verified.name,
        facts=facts if stack is None else (*facts, "{1} x {2}".format(*stack.before.shape)),
        verdict=verdict,
        state=state,
        problems=problems,
        fidelity=_fidelity_rows(verified),
        record=_record_rows(verified, stated, stack, units),
        charts=() if stack is None else charts_of(stack, verified.checks, units),
        view=shown.view,
        scene=shown.scene,
        notes=shown.notes,
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a page shows of the pixels, and what a reader must know of that."""

    view: View | None = None
    scene: Scene | None = None
    notes: tuple[str, ...] = ()


def _shown(stack: Stack, cap: int, viewer: str) -> _Shown:
    why_not = why_no_scene(stack) if viewer == NIIVUE else ""
    if viewer == NIIVUE and not why_not:
        scene = scene_of(stack, cap)
        return _Shown(scene=scene, notes=tuple(notes_of_scene(stack, scene, cap)))
    view = view_of(stack, cap)
    notes = tuple(notes_of(stack, view, cap))
    if why_not:
        notes = (f"NiiVue shows volumes; this is shown slice by slice, for {why_not}", *notes)
    return _Shown(view=view, notes=notes)


def entry_of(verified: Verified, page: str) -> Entry:
    """Return the line of the index for a series."""
    _, state, _ = judgement(verified)
    found = verified.fidelity
    numbers = ("-",) * 5
    if found is not None:
        numbers = (
            _decibel(found.psnr_db), f"{found.ssim:.4f}", f"{found.mean_shift:.2g}",
            f"{found.largest_change:.4g}", _percent(found.changed_share),
        )  # fmt: skip
    texts = (verified.modality, str(verified.slices), *numbers, _WORDS[state])
    return Entry(name=verified.name, page=page, row=Row(verified.name, texts, state))


def summary_of(found: Verification, entries: Sequence[Entry], stated: dict[str, Any]) -> Summary:
    """Return the index: every series, what has none, and how the run describes itself."""
    objects = found.objects
    wrong = bool(found.strange or objects.findings)
    states = {entry.row.state for entry in entries} | ({WRONG} if wrong else set())
    state = next(one for one in (WRONG, MISSED, RIGHT) if one in states)
    remarks = [
        Row("series of SOURCE that are not in OUT", (str(found.absent),)),
        Row("objects copied, every reference right", (str(objects.right),)),
        Row("objects of SOURCE without a copy in OUT", (str(objects.absent),)),
    ]
    left_out = _dict(stated.get("left_out"))
    remarks += [
        Row(f"files that the run left out, {code}", (_text(left_out[code]),))
        for code in sorted(left_out)
    ]
    remarks += [Row("file of OUT", (f"{path.name}: {why}",), WRONG) for path, why in found.strange]
    remarks += [
        Row("object of OUT", (f"{path.name}: {finding.code}: {finding.text}",), WRONG)
        for path, finding in objects.findings
    ]
    return Summary(
        verdict=_VERDICTS[state] + _less(*found.series) * (state == RIGHT),
        state=state,
        head=(*_HEAD, "verdict"),
        entries=tuple(entries),
        remarks=tuple(remarks),
        about=_about(stated),
        plan=tuple(
            Row(name, ("default" if value is None else _text(value),))
            for name, value in sorted(_dict(stated.get("plan")).items())
        ),
    )


def _fidelity_rows(verified: Verified) -> tuple[Row, ...]:
    """Return each number that has a limit, in the window or region where it is worst."""
    groups: dict[tuple[int, str], list[Check]] = {}
    for check in verified.checks:
        groups.setdefault((check.row, check.name), []).append(check)
    rows = [_findings_row(verified, row) for row in (1, 2)]
    for (row, name), group in sorted(groups.items()):
        check = max(group, key=lambda one: one.beyond)
        verdict = "missed" if check.is_missed else "met" if check.is_wanted else "not as wanted"
        state = MISSED if check.is_missed else RIGHT if check.is_wanted else LESS
        where = ", ".join(text for text in (check.where, check.at) if text)
        texts = (MEASURES[name].title, check.shown, where, check.shown_limit, verdict)
        rows.append(Row(f"{row} {ROWS[row]}", texts, state))
    rows += [
        Row(f"{row} {ROWS[row]}", (f"not measured: {reason}", "-", "-", "-", "-"))
        for row, reason in verified.unmeasured
    ]
    return tuple(rows)


def _findings_row(verified: Verified, row: int) -> Row:
    """Return rows 1 and 2, which are no numbers: how much is wrong."""
    count = sum(row_of(finding) == row for finding in verified.findings)
    texts = ("findings", f"{count}", "", "none", "wrong" if count else "met")
    return Row(f"{row} {ROWS[row]}", texts, WRONG if count else RIGHT)


def _record_rows(
    verified: Verified, stated: dict[str, Any], stack: Stack | None, units: str
) -> tuple[Row, ...]:
    """Return what was done: as the manifest states it, and as it is on disk."""
    plan = _dict(stated.get("plan"))
    every = map(_dict, _list(stated.get("series")))
    series = next((one for one in every if one.get("folder") == verified.name), {})
    budget = _dict(series.get("budget"))
    found = verified.fidelity
    share = largest = stored = changed = outside = "-"
    if stack is not None:
        stored = f"{stack.largest_stored}"
        outside = str(stack.changed_outside)
    if found is not None:
        width = found.intensity_range[1] - found.intensity_range[0]
        share = _number(found.largest_change / width)
        largest, changed = f"{found.largest_change:.4g}", _percent(found.changed_share)
    method = f"{_text(plan.get('method'))}, extent {_text(series.get('extent'))}"
    return (
        Row("method", (method, "")),
        Row("largest change, of the intensity range", (_number(budget.get("fraction")), share)),
        Row(f"largest change, {units}", (_number(budget.get("modality")), largest)),
        Row("largest change, stored units", (_number(budget.get("stored")), stored)),
        Row(
            "changed voxels, of the foreground",
            (_percent(series.get("changed_share_of_foreground")), changed),
        ),
        Row("changed voxels outside the foreground", ("0", outside)),
        Row("digest of plan and protector", (_text(stated.get("digest")), "")),
        *(Row("warning", (_text(one), "")) for one in _list(series.get("warnings"))),
    )


def _about(stated: dict[str, Any]) -> tuple[Row, ...]:
    """Return how the manifest describes the run."""
    return (
        Row("salm_dicom", (_text(stated.get("salm_dicom")),)),
        Row("created", (_text(stated.get("created")),)),
        Row("digest of plan and protector", (_text(stated.get("digest")),)),
    )


def _dict(value: object) -> dict[str, Any]:
    """Return a value of the manifest that should be an object; anybody may have written it."""
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return "not stated" if value is None else str(value)[:200]


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "not stated"


def _percent(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else "not stated"


def _decibel(value: float) -> str:
    return f"{value:.1f} dB" if math.isfinite(value) else "no change"
