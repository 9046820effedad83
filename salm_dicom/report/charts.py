"""Charts as geometry that `templates/chart.svg` draws: no plotting library, no inline styles.

Inline `style` attributes, which plotting libraries write, would be refused by the page's content
security policy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 230
# Free space: left, top, right, bottom.
_LEFT, _TOP, _RIGHT, _BOTTOM = 58, 14, 12, 42
_DOTS = 80


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis, and what it says."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, and what a pointer over it says."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, slots=True)
class Dot:
    """A point, and what a pointer over it says."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn, in a box of WIDTH x HEIGHT; y grows downwards.

    `paths` are SVG path data of curves, `limits` places of dashed lines across.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...] = ()
    paths: tuple[str, ...] = ()
    dots: tuple[Dot, ...] = ()
    limits: tuple[Tick, ...] = ()
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM


@dataclass(frozen=True, slots=True)
class _Axis:
    """A range of values onto a range of places."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, most: int) -> tuple[Tick, ...]:
        return tuple(Tick(self.at(v), f"{v:.6g}") for v in _round_values(self.low, self.high, most))


def histogram(
    counts: Sequence[tuple[int, int, float]], *, title: str, x_label: str, y_label: str
) -> Chart:
    """Return a histogram.

    Parameters
    ----------
    counts
        Lowest and highest integer of each bin, ascending, and its height.
    """
    low, high = counts[0][0] - 0.5, counts[-1][1] + 0.5
    most = max(height for _, _, height in counts) or 1.0
    x = _Axis(low, high, _LEFT, WIDTH - _RIGHT)
    y = _Axis(0, most * 1.05, HEIGHT - _BOTTOM, _TOP)
    bars = []
    for first, last, height in counts:
        start, end, top = x.at(first - 0.5), x.at(last + 0.5), y.at(height)
        gap = min(1.5, (end - start) / 5)
        name = f"{first:+d}" if first == last else f"{first:+d} to {last:+d}"
        bars.append(
            Bar(
                round(start + gap, 2), top, round(end - start - 2 * gap, 2),
                round(y.start - top, 2), f"{name}: {height:.4g}",
            )
        )  # fmt: skip
    whole = tuple(t for t in x.ticks(9) if float(t.label).is_integer())
    return Chart(
        title=title, x_label=x_label, y_label=y_label, bars=tuple(bars), x_ticks=whole,
        y_ticks=y.ticks(5),
    )  # fmt: skip


def curve(
    values: Sequence[float],
    *,
    title: str,
    y_label: str,
    limits: Sequence[tuple[float, str]] = (),
    unit: str = "",
) -> Chart:
    """Return a value for each slice as a curve; it is broken where a value is not finite.

    Parameters
    ----------
    limits
        Values of dashed lines, and what they say.
    """
    finite = [v for v in values if math.isfinite(v)] + [value for value, _ in limits]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    room = (high - low) * 0.08 or abs(high) * 0.08 or 1.0
    ends = (1 - 0.5, len(values) + 0.5) if len(values) < 3 else (1.0, float(len(values)))
    x = _Axis(*ends, _LEFT + 6, WIDTH - _RIGHT - 6)
    y = _Axis(low - room, high + room, HEIGHT - _BOTTOM, _TOP)
    places = [
        Dot(x.at(i), y.at(v), f"slice {i}: {v:.4g} {unit}".rstrip())
        for i, v in enumerate(values, start=1)
        if math.isfinite(v)
    ]
    return Chart(
        title=title,
        x_label="slice",
        y_label=y_label,
        paths=tuple(_paths(values, x, y)),
        dots=tuple(places) if len(values) <= _DOTS else (),
        limits=tuple(Tick(y.at(value), label) for value, label in limits),
        x_ticks=tuple(t for t in x.ticks(8) if float(t.label).is_integer()),
        y_ticks=y.ticks(5),
    )


def _paths(values: Sequence[float], x: _Axis, y: _Axis) -> list[str]:
    """Return path data of each unbroken stretch."""
    found: list[list[str]] = [[]]
    for index, value in enumerate(values, start=1):
        if math.isfinite(value):
            found[-1].append(f"{x.at(index)} {y.at(value)}")
        elif found[-1]:
            found.append([])
    return ["M" + "L".join(points) for points in found if len(points) > 1]


def _round_values(low: float, high: float, most: int) -> list[float]:
    """Return at most about `most` values of 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]
