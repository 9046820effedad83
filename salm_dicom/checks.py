"""Checks: what numbers and choices of a plan may be."""

from __future__ import annotations

import math

from salm_dicom.errors import PlanError


def check_share(name: str, value: object) -> None:
    """Raise `PlanError` where a value is no share above 0 and up to 1."""
    if not isinstance(value, int | float) or not 0 < value <= 1:
        shown = f"{value:g}" if isinstance(value, int | float) else repr(value)
        raise PlanError(f"{name} is {shown}; a share above 0 and up to 1 is needed")


def check_length(name: str, value: object) -> None:
    """Raise `PlanError` where a value is no length above 0."""
    if not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise PlanError(f"{name} is {value!r}; millimetres above 0 are needed")


def check_momentum(value: object) -> None:
    """Raise `PlanError` where a value is no share from 0 up to, not with, 1."""
    if not isinstance(value, int | float) or not 0 <= value < 1:
        shown = f"{value:g}" if isinstance(value, int | float) else repr(value)
        raise PlanError(f"momentum is {shown}; a share from 0 up to, not with, 1 is needed")


def check_count(name: str, value: object) -> None:
    """Raise `PlanError` where a value is no whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise PlanError(f"{name} is {value}; a whole number of at least 1 is needed")


def check_range(value: tuple[float, ...]) -> None:
    """Raise `PlanError` where a range is empty."""
    if len(value) != 2 or not all(map(math.isfinite, value)) or not value[0] < value[1]:
        shown = " to ".join(f"{number:g}" for number in value)
        raise PlanError(f"intensity range {shown} is empty; a lower and a higher number are needed")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `PlanError` where a name is none of the choices."""
    if value not in choices:
        raise PlanError(f"{name} {value!r} is unknown; known are {', '.join(choices)}")
