"""Names in the output: counters of patient, study and series; never UIDs or patient data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salm_dicom.batch.ledger import Row
from salm_dicom.batch.nifti import PREFIX
from salm_dicom.batch.source import AnySeries, source_key
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.nifti.scan import NiftiFile


@dataclass(frozen=True, slots=True)
class Name:
    """Folder of a series below the output, and how many slices it has."""

    folder: str
    slices: int


def new_names(found: Iterable[AnySeries], known: Mapping[str, Row]) -> dict[str, Name]:
    """Return names for the series that the ledger does not know."""
    found = list(found)
    images = {key: row for key, row in known.items() if row.name.startswith(PREFIX)}
    series = {key: row for key, row in known.items() if key not in images}
    files = [one for one in found if isinstance(one, NiftiFile)]
    names = _series_names([one for one in found if not isinstance(one, NiftiFile)], series)
    number = max((int(row.name.removeprefix(PREFIX)) for row in images.values()), default=0)
    for file in files:
        if source_key(file) not in known:
            number += 1
            names[source_key(file)] = Name(f"{PREFIX}{number:04d}", file.images)
    return names


def _series_names(found: list[SeriesFiles], known: Mapping[str, Row]) -> dict[str, Name]:
    """Return names for DICOM series that the ledger does not know.

    Patients and studies that it does know keep their numbers, so that an export which has grown
    can be protected into the same output.
    """
    patients: dict[str, int] = {}
    studies: dict[tuple[str, str], tuple[int, int]] = {}
    for series in found:
        row, first = known.get(source_key(series)), series.headers[0]
        if row is not None:
            patient, study, _ = _numbers(row.name)
            patients[first.patient_id] = patient
            studies[first.patient_id, first.study_uid] = patient, study
    taken = [_numbers(row.name) for row in known.values()]
    names: dict[str, Name] = {}
    for series in found:
        if source_key(series) in known:
            continue
        first = series.headers[0]
        if first.patient_id not in patients:
            patients[first.patient_id] = 1 + max((p for p, _, _ in taken), default=0)
        patient = patients[first.patient_id]
        if (first.patient_id, first.study_uid) not in studies:
            used = [s for p, s, _ in taken if p == patient]
            studies[first.patient_id, first.study_uid] = patient, 1 + max(used, default=0)
        _, study = studies[first.patient_id, first.study_uid]
        used = [n for p, s, n in taken if (p, s) == (patient, study)]
        number = 1 + max(used, default=0)
        taken.append((patient, study, number))
        folder = f"patient-{patient:04d}/study-{study:02d}/series-{number:03d}"
        names[source_key(series)] = Name(folder, series.images)
    return names


def _numbers(folder: str) -> tuple[int, int, int]:
    patient, study, series = (int(part.split("-")[1]) for part in folder.split("/"))
    return patient, study, series
