"""Plots of an audit as SVG: protection by countermeasure, and by the share that is protected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from salm_dicom.audit.score import PARTIAL, STRONG, WEAK
from salm_dicom.audit.summary import Row, Summary
from salm_dicom.plots import figure, save_svg

_LIMITS = {"protected": STRONG, "partly": PARTIAL, "weakly": WEAK}
_XLABEL = "share of what could be learned that is lost (95 % interval; dots: single victims)"


def draw(summary: Summary, folder: Path) -> list[Path]:
    """Write `countermeasures.svg`, and `coverage.svg` where it was measured; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "countermeasures.svg"]
    save_svg(_countermeasures(summary.countermeasures), files[0])
    if len(summary.coverage) > 1:
        files.append(folder / "coverage.svg")
        save_svg(_coverage(summary.coverage, summary.score), files[1])
    return files


def _countermeasures(rows: Sequence[Row]) -> Any:
    made, axes = figure(7, 0.9 + 0.35 * len(rows))
    for place, row in enumerate(rows):
        found = row.protection
        if found is None:
            axes.text(0.01, place, "clean victims learn nothing", va="center", fontsize=8)
            continue
        axes.plot([found.low, found.high], [place, place], color="tab:blue", linewidth=3)
        axes.plot(found.value, place, "|", color="black", markersize=14)
        dots = [value for value in row.of_runs if value is not None]
        axes.plot(dots, [place] * len(dots), ".", color="black", alpha=0.4)
    axes.set_yticks(range(len(rows)), [row.countermeasure for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for word, limit in _LIMITS.items():
        axes.axvline(limit, color="grey", linewidth=0.6, linestyle=":")
        axes.text(limit, -0.55, word, fontsize=7, color="grey", ha="center", va="bottom")
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel(_XLABEL)
    return made


def _coverage(rows: Sequence[Row], score: str) -> Any:
    made, axes = figure(7, 3.6)
    shares = [row.coverage for row in rows]
    for values, name in (
        ([row.protected for row in rows], "trained on the share that is protected"),
        ([row.clean for row in rows], "trained on clean images"),
    ):
        axes.plot(shares, [one.value for one in values], marker="o", label=name)
        axes.fill_between(
            shares, [one.low for one in values], [one.high for one in values], alpha=0.15
        )
    axes.set_xlabel("patients that are protected, %")
    axes.set_ylabel(f"{score} on clean test images")
    axes.legend(frameon=False)
    return made
