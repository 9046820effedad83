"""Options of what `scan` and `protect` take from an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from salm_dicom.cli.options import F, as_one, modality_option, quantitative_option

if TYPE_CHECKING:
    from salm_dicom.batch.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line says of the images that are wanted."""

    modality: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_quantitative: bool = False

    def selection(self, root: Path) -> Selection:
        """Return what --include and --exclude ask for; relative paths begin at `root`.

        Raises
        ------
        PlanError
            One of them is not understood.
        """
        from salm_dicom.batch.selection import Criterion, Selection

        return Selection(
            include=tuple(map(Criterion.parse, self.include)),
            exclude=tuple(map(Criterion.parse, self.exclude)),
            root=root,
        )


def wanted_options(function: F) -> F:
    """Add --modality, --include, --exclude and --allow-quantitative, as one `Wanted`."""
    function = quantitative_option(as_one("wanted", Wanted)(function))
    function = click.option(
        "--exclude", multiple=True, metavar="KEY=VALUE", help="What to leave out, likewise."
    )(function)
    function = click.option(
        "--include",
        multiple=True,
        metavar="KEY=VALUE",
        help="What to take: modality=CT,MR  date=20250101-20251231  series=UID  study=UID  "
        "patient=ID  path=FOLDER. Several keys must all fit, of one key any.",
    )(function)
    return modality_option(function)
