"""Options that say who does the work of a run, and with how much memory and time."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from salm_dicom.errors import PlanError

F = TypeVar("F", bound=Callable[..., Any])


def engine_options(function: F) -> F:
    """Add --jobs, --engine, --max-memory and --max-seconds-per-file."""
    function = click.option(
        "--max-seconds-per-file",
        type=click.FloatRange(min=0, min_open=True),
        default=None,
        metavar="SECONDS",
        help="End a series that takes longer for each of its files or frames (E_TIMEOUT).",
    )(function)
    function = click.option(
        "--max-memory",
        default=None,
        metavar="SIZE",
        help="Memory for all workers together, such as 8GB; on a cluster for each. Fewer series "
        "are worked on at once, and those that fit alone nowhere are left out (E_TOO_LARGE).",
    )(function)
    function = click.option(
        "--engine",
        default="local",
        show_default=True,
        metavar="ENGINE",
        help="Who does the work: local (processes of this machine), serial (this process), or "
        "dask://HOST:PORT (the workers of a Dask scheduler).",
    )(function)
    return jobs_option(function)


def jobs_option(function: F) -> F:
    """Add --jobs."""
    return click.option(
        "-j",
        "--jobs",
        type=click.IntRange(1),
        default=None,
        help="Worker processes on this machine. Default: one for each core.",
    )(function)


def device_option(function: F, what: str = "pixels") -> F:
    """Add --device."""
    return click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="DEVICE",
        help="Where networks run: cpu, cuda, cuda:N, or auto (cuda where there is one). Another "
        f"kind of processor, GPU or CPU, gives slightly other {what}.",
    )(function)


def bytes_of(size: str | None) -> int:
    """Return how many bytes `8GB`, `500 MB` or `2GiB` are; 0 for nothing.

    Raises
    ------
    PlanError
    """
    if size is None:
        return 0
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?\s*", size, re.IGNORECASE)
    if found is None:
        raise PlanError("a size is written 8GB or 500MB")
    power = "KMGT".index(found[2].upper()) + 1
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)
