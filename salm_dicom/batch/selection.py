"""Selection: which series and objects of an export an operator wants.

modality=CT,MR   date=20250101-20251231   series=UID   study=UID   patient=ID   path=folder
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from salm_dicom.batch.catalog import AnySeries, Catalog
from salm_dicom.batch.ledger import Table
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import NotChosen, PlanError
from salm_dicom.nifti.scan import NiftiFile

KEYS = ("modality", "date", "series", "study", "patient", "path")
_DATES = re.compile(r"\d{8}|(\d{8})?-(\d{8})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One `key=value,value`; it fits what has any of the values."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Return what `modality=CT,MR` or `date=20250101-20251231` mean.

        Raises
        ------
        PlanError
        """
        key, equals, rest = text.partition("=")
        values = tuple(value.strip() for value in rest.split(",") if value.strip())
        if key not in KEYS or not equals or not values:
            raise PlanError(
                "a selection is written KEY=VALUE or KEY=VALUE,VALUE; keys are " + ", ".join(KEYS)
            )
        if key == "date" and not all(map(_is_dates, values)):
            raise PlanError("a date is written YYYYMMDD, or YYYYMMDD-YYYYMMDD with either end open")
        return cls(key=key, values=values)

    def fits(self, said: dict[str, str]) -> bool:
        """Return whether what something says of itself has one of the values."""
        found = said[self.key]
        if self.key == "date":
            return bool(found) and any(_within(found, value) for value in self.values)
        if self.key == "path":
            places = {found, *map(str, Path(found).parents)}
            return any(value.rstrip("/") in places for value in self.values)
        return found in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What an operator wants; nothing asked for is everything.

    Parameters
    ----------
    include
        Of each key that occurs, one criterion must fit.
    exclude
        None must fit.
    root
        Where relative paths begin.
    """

    include: tuple[Criterion, ...] = ()
    exclude: tuple[Criterion, ...] = ()
    root: Path = Path()

    def reason(self, one: AnySeries | ObjectHeader) -> str:
        """Return why something is not wanted; empty when it is. Quotes no value."""
        said = _said(one, self.root)
        for key in dict.fromkeys(criterion.key for criterion in self.include):
            if not any(c.fits(said) for c in self.include if c.key == key):
                return f"not chosen by --include {key}=..."
        for criterion in self.exclude:
            if criterion.fits(said):
                return f"left out by --exclude {criterion.key}=..."
        return ""


def choose(
    catalog: Catalog,
    selection: Selection,
    is_done: Callable[[str, Table], bool] = lambda *_: False,
) -> None:
    """Leave out what is not wanted, with its code.

    Parameters
    ----------
    is_done
        Says of a key whether the output has it already: then it stays.
    """
    if not (selection.include or selection.exclude):
        return
    for entry in catalog.series():
        why = "" if is_done(entry.key, "series") else selection.reason(entry.series)
        if why:
            out = (LeftOut(path, NotChosen.code, why) for path in entry.series.paths)
            catalog.drop(entry.number, "series", out)
    for number, key in catalog.pages("key", "objects"):
        one = catalog.object(key)
        if one is not None and not is_done(key, "objects") and (why := selection.reason(one)):
            catalog.drop(number, "objects", [LeftOut(one.path, NotChosen.code, why)])


def _said(one: AnySeries | ObjectHeader, root: Path) -> dict[str, str]:
    if isinstance(one, NiftiFile):
        said = {"date": "", "series": one.series_uid, "study": "", "patient": ""}
        return said | {"modality": one.modality, "path": _relative(one.path, root)}
    first = one if isinstance(one, ObjectHeader) else one.headers[0]
    return {
        "modality": first.modality,
        "date": first.study_date,
        "series": first.series_uid,
        "study": first.study_uid,
        "patient": first.patient_id,
        "path": _relative(first.path, root),
    }


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _is_dates(value: str) -> bool:
    found = _DATES.fullmatch(value)
    return found is not None and value != "-"


def _within(date: str, value: str) -> bool:
    first, dash, last = value.partition("-")
    return date == first if not dash else (first or "0") <= date <= (last or "9")
