"""Names in the output: counters of patient, study and series; never UIDs or patient data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salm_dicom.batch.ledger import Ledger, Row
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import Scan, SeriesFiles


@dataclass(frozen=True, slots=True)
class Name:
    """Folder of a series below the output, and how many slices it has."""

    folder: str
    slices: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets a folder of its own, and whose it is."""

    key: str
    patient_id: str
    study_uid: str


def source_key(series: SeriesFiles) -> str:
    """Return what names a volume of the source in the ledger."""
    return f"{series.headers[0].series_uid}/{min(h.sop_uid for h in series.headers)}"


def plan_names(found: Scan, ledger: Ledger) -> None:
    """Give every series and object of the export its place in the output."""
    for source, name in new_names(found.series, ledger.rows()).items():
        ledger.plan(source, name.folder, name.slices)
    series, known = ledger.rows(), ledger.rows("objects")
    for source, place in object_names(found.objects, found.series, series, known).items():
        ledger.plan(source, place, 1, table="objects")


def new_names(found: Iterable[SeriesFiles], known: Mapping[str, Row]) -> dict[str, Name]:
    """Return names for the series that the ledger does not know; see `new_folders`."""
    found = list(found)
    folders = new_folders(map(_unit, found), {source: row.name for source, row in known.items()})
    slices = {source_key(series): len(series.paths) for series in found}
    return {key: Name(folder, slices[key]) for key, folder in folders.items()}


def object_names(
    objects: Iterable[ObjectHeader],
    found: Iterable[SeriesFiles],
    series: Mapping[str, Row],
    known: Mapping[str, Row],
) -> dict[str, str]:
    """Return names for the objects that the ledger does not know, by SOP Instance UID.

    Objects of one series share a folder; they come after the series of images.

    Parameters
    ----------
    found, series
        The series of the export, and the ledger's rows of series.
    known
        The ledger's rows of objects.
    """
    objects = list(objects)
    taken = {source: row.name for source, row in series.items()}
    for one in objects:
        if one.sop_uid in known:
            taken[_object_key(one)] = known[one.sop_uid].name.rpartition("/")[0]
    unseen = {row.name.rpartition("/")[0] for row in known.values()} - set(taken.values())
    taken |= {f"another {folder}": folder for folder in unseen}
    units = [_unit(one) for one in found]
    units += [Unit(_object_key(one), one.patient_id, one.study_uid) for one in objects]
    folders = taken | new_folders(units, taken)
    used = [row.name for row in known.values()]
    names: dict[str, str] = {}
    for one in objects:
        if one.sop_uid not in known:
            folder = folders[_object_key(one)]
            number = 1 + max((_number(n) for n in used if n.startswith(folder + "/")), default=0)
            names[one.sop_uid] = f"{folder}/{number:05d}.dcm"
            used.append(names[one.sop_uid])
    return names


def new_folders(units: Iterable[Unit], known: Mapping[str, str]) -> dict[str, str]:
    """Return folders for the units that are not known.

    Patients and studies that are known keep their numbers, so that an export which has grown can
    be protected into the same output.
    """
    units = list(units)
    patients: dict[str, int] = {}
    studies: dict[tuple[str, str], tuple[int, int]] = {}
    for unit in units:
        if unit.key in known:
            patient, study, _ = _numbers(known[unit.key])
            patients[unit.patient_id] = patient
            studies[unit.patient_id, unit.study_uid] = patient, study
    taken = [_numbers(folder) for folder in known.values()]
    folders: dict[str, str] = {}
    for unit in units:
        if unit.key in known or unit.key in folders:
            continue
        if unit.patient_id not in patients:
            patients[unit.patient_id] = 1 + max((p for p, _, _ in taken), default=0)
        patient = patients[unit.patient_id]
        if (unit.patient_id, unit.study_uid) not in studies:
            used = [s for p, s, _ in taken if p == patient]
            studies[unit.patient_id, unit.study_uid] = patient, 1 + max(used, default=0)
        _, study = studies[unit.patient_id, unit.study_uid]
        used = [n for p, s, n in taken if (p, s) == (patient, study)]
        number = 1 + max(used, default=0)
        taken.append((patient, study, number))
        folders[unit.key] = f"patient-{patient:04d}/study-{study:02d}/series-{number:03d}"
    return folders


def _unit(series: SeriesFiles) -> Unit:
    first = series.headers[0]
    return Unit(source_key(series), first.patient_id, first.study_uid)


def _object_key(one: ObjectHeader) -> str:
    return f"objects {one.study_uid}/{one.series_uid}"


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name.rpartition("/")[2])[0])


def _numbers(folder: str) -> tuple[int, int, int]:
    patient, study, series = (int(part.split("-")[1]) for part in folder.split("/"))
    return patient, study, series
