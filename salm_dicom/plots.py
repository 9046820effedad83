"""Figures: the only home of matplotlib, which is imported when a figure is asked for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import PlanError

# Of `Picture.colours`: values, values where high is dark (MONOCHROME1), signed changes.
GRAY, INVERTED, SIGNED = "gray", "gray_r", "RdBu_r"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One slice to be shown: values (rows, columns); `window` are the ends of the scale."""

    title: str
    values: NDArray[Any]
    window: tuple[float, float]
    unit: str
    colours: str = GRAY


def check_installed() -> None:
    """Refuse to go on where nothing can be drawn.

    Raises
    ------
    PlanError
        matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlanError("plots need matplotlib: pip install 'salm_dicom[report]'") from error


def default_window(values: NDArray[Any], modality: str) -> tuple[float, float]:
    """Return -160..240 HU for CT, else 1 to 99 % of the values."""
    low, high = np.percentile(values, (1, 99)).tolist()
    return (-160.0, 240.0) if modality == "CT" else (low, max(high, low + 1))


def slice_at(index: int, count: int) -> int:
    """Return which of `count` slices is meant; negative numbers count from the end.

    Raises
    ------
    PlanError
        There is no such slice.
    """
    if not -count <= index < count:
        raise PlanError(f"there is no slice {index}; there are {count}, the first is 0")
    return index % count


def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of so many inches, which needs no display, and its axes.

    Raises
    ------
    PlanError
        matplotlib is not installed.
    """
    check_installed()
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns)


def pictures(shown: Sequence[Picture], aspect: float, title: str) -> Any:
    """Return a figure of slices side by side, each with its scale.

    Parameters
    ----------
    aspect
        Height of a voxel as a multiple of its width.
    """
    rows, columns = shown[0].values.shape
    height = min(max(3.4 * rows * aspect / columns, 1.5), 8.0)
    made, axes = figure(4.2 * len(shown), height + 0.7, columns=len(shown))
    for panel, one in zip(np.atleast_1d(axes), shown, strict=True):
        low, high = one.window
        drawn = panel.imshow(
            one.values,
            cmap=one.colours,
            vmin=low,
            vmax=high,
            aspect=aspect,
            interpolation="nearest",
        )
        panel.set_title(one.title, fontsize=10)
        panel.set_axis_off()
        made.colorbar(drawn, ax=panel, shrink=0.8, label=one.unit)
    made.suptitle(title, fontsize=11)
    return made


def histogram(values: NDArray[Any], *, title: str, xlabel: str) -> Any:
    """Return a figure of how often values occur; integers of a small span have a bar each."""
    made, axes = figure(6, 3.4)
    bins: Any = 100
    if values.dtype.kind in "iu" and values.size:
        low, high = int(values.min()), int(values.max())
        if high - low <= 200:
            bins = np.arange(low, high + 2) - 0.5
    weights = np.full(values.size, 100 / max(values.size, 1))
    axes.hist(values.ravel(), bins=bins, weights=weights, color="tab:blue")
    axes.set(title=title, xlabel=xlabel, ylabel="voxels, %")
    return made


def curves(values: Mapping[str, Sequence[float]], *, title: str) -> Any:
    """Return a figure of numbers by slice, one below the other; keys are names with units."""
    made, axes = figure(7, 0.6 + 1.9 * len(values), rows=len(values))
    for place, (name, numbers) in zip(np.atleast_1d(axes), values.items(), strict=True):
        finite = [value if np.isfinite(value) else np.nan for value in numbers]
        place.plot(range(1, len(finite) + 1), finite, marker=".", linewidth=1)
        place.set_ylabel(name, fontsize=9)
        place.grid(alpha=0.3)
    np.atleast_1d(axes)[-1].set_xlabel("slice")
    made.suptitle(title, fontsize=11)
    return made


def save_svg(made: Any, path: Path) -> None:
    """Write a figure as SVG: the same figure gives the same bytes."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "salm_dicom", "svg.fonttype": "none"}):
        made.savefig(path, metadata={"Date": None})


def if_installed(draw: Callable[[], Any]) -> Any | None:
    """Return what `draw` gives, or None without matplotlib: a notebook then shows text."""
    try:
        check_installed()
    except PlanError:
        return None
    return draw()


def as_html(facts: Mapping[str, object], made: Any | None) -> str:
    """Return facts and a figure (None: facts only) for a notebook."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in facts.items()
    )
    image = ""
    if made is not None:
        stream = BytesIO()
        made.savefig(stream, format="png", dpi=80)
        data = b64encode(stream.getvalue()).decode("ascii")
        image = f"<img alt='slice' src='data:image/png;base64,{data}'>"
    return f"<table>{rows}</table>{image}"
