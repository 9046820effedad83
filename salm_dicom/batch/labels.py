"""labels.csv: which label each series has."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from salm_dicom.batch.catalog import AnySeries
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.errors import NoLabel, PlanError
from salm_dicom.nifti.scan import NiftiFile

# What a key of the table is compared with; a path key names a file or any folder above it.
LABELS_BY: dict[str, Callable[[InstanceHeader], str]] = {
    "series": lambda instance: instance.series_uid,
    "study": lambda instance: instance.study_uid,
    "patient": lambda instance: instance.patient_id,
    "instance": lambda instance: instance.sop_uid,
    "path": lambda instance: str(instance.path),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """A label for each key; see `LABELS_BY` for what keys are."""

    by: str
    table: Mapping[str, str]
    root: Path

    @classmethod
    def read(cls, path: Path, *, by: str, root: Path) -> Labels:
        """Return the labels of a CSV file with the columns `key` and `label`.

        Raises
        ------
        PlanError
            Columns are missing, a row is incomplete, or a key has two different labels.
        """
        table: dict[str, str] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.DictReader(stream)
                if not {"key", "label"} <= set(reader.fieldnames or ()):
                    raise PlanError("the labels file needs the columns `key` and `label`")
                for row in reader:
                    key, label = (row["key"] or "").strip(), (row["label"] or "").strip()
                    if not key or not label:
                        raise PlanError(f"line {reader.line_num} of the labels file is incomplete")
                    if table.setdefault(key, label) != label:
                        raise PlanError(f"line {reader.line_num} contradicts an earlier label")
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise PlanError(f"the labels file cannot be read ({type(error).__name__})") from error
        if not table:
            raise PlanError("the labels file has no rows")
        return cls(by=by, table=table, root=root)

    def of(self, series: AnySeries) -> str:
        """Return the one label that the instances of a series have.

        Raises
        ------
        NoLabel
            The table has none for it, or its instances have different ones.
        """
        if isinstance(series, NiftiFile):
            return self._of_nifti(series)
        found = {label for h in series.headers if (label := self._of(h)) is not None}
        if not found:
            raise NoLabel(f"the labels file has no row for this series (--labels-by {self.by})")
        if len(found) > 1:
            raise NoLabel(f"its instances have {len(found)} different labels; one is needed")
        return found.pop()

    def _of(self, instance: InstanceHeader) -> str | None:
        if self.by != "path":
            return self.table.get(LABELS_BY[self.by](instance))
        return self._by_path(instance.path)

    def _of_nifti(self, file: NiftiFile) -> str:
        """Return the label of a NIfTI file, which has a path and perhaps a series' UID."""
        if self.by not in ("path", "series"):
            raise NoLabel(f"a NIfTI file has no {self.by}; use --labels-by path")
        found = self._by_path(file.path) if self.by == "path" else self.table.get(file.series_uid)
        if found is None:
            raise NoLabel(f"the labels file has no row for this file (--labels-by {self.by})")
        return found

    def _by_path(self, path: Path) -> str | None:
        relative = path.relative_to(self.root)
        names = [str(relative), *(str(parent) for parent in relative.parents)]
        return next((self.table[name] for name in names if name in self.table), None)
