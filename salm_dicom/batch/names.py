"""Names in the output: counters of patient, study and series; never UIDs or patient data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from salm_dicom.batch.ledger import Ledger, Row
from salm_dicom.dicom.folder import file_name
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


# Folders of a patient, a study and a series; on media (PS3.10 8.5) names have eight characters.
_FOLDERS = "patient-{:04d}/study-{:02d}/series-{:03d}"
_MEDIA_FOLDERS = "PT{:06d}/ST{:06d}/SE{:06d}"


def for_media(found: Scan, rows: Mapping[str, Row]) -> bool:
    """Return whether an output's names are those that a DICOMDIR can hold.

    They are where the source has a DICOMDIR, and stay what the first run made them.
    """
    names = [row.name for row in rows.values()]
    return names[0].startswith("PT") if names else bool(found.indexes)


def plan_names(found: Scan, ledger: Ledger) -> None:
    """Give every series and object of the export its place in the output."""
    media = for_media(found, ledger.rows())
    for source, name in new_names(found.series, ledger.rows(), media=media).items():
        ledger.plan(source, name.folder, name.slices)
    series, known = ledger.rows(), ledger.rows("objects")
    for source, place in object_names(
        found.objects, found.series, series, known, media=media
    ).items():
        ledger.plan(source, place, 1, table="objects")


def new_names(
    found: Iterable[SeriesFiles], known: Mapping[str, Row], *, media: bool = False
) -> dict[str, Name]:
    """Return names for the series that the ledger does not know; see `new_folders`."""
    found = list(found)
    taken = {source: row.name for source, row in known.items()}
    folders = new_folders(map(_unit, found), taken, media=media)
    slices = {source_key(series): len(series.paths) for series in found}
    return {key: Name(folder, slices[key]) for key, folder in folders.items()}


def object_names(
    objects: Iterable[ObjectHeader],
    found: Iterable[SeriesFiles],
    series: Mapping[str, Row],
    known: Mapping[str, Row],
    *,
    media: bool = False,
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
    folders = taken | new_folders(units, taken, media=media)
    used = [row.name for row in known.values()]
    names: dict[str, str] = {}
    for one in objects:
        if one.sop_uid not in known:
            folder = folders[_object_key(one)]
            number = 1 + max((_number(n) for n in used if n.startswith(folder + "/")), default=0)
            names[one.sop_uid] = f"{folder}/{file_name(folder, number)}"
            used.append(names[one.sop_uid])
    return names


def new_folders(
    units: Iterable[Unit], known: Mapping[str, str], *, media: bool = False
) -> dict[str, str]:
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
        pattern = _MEDIA_FOLDERS if media else _FOLDERS
        folders[unit.key] = pattern.format(patient, study, number)
    return folders


def _unit(series: SeriesFiles) -> Unit:
    first = series.headers[0]
    return Unit(source_key(series), first.patient_id, first.study_uid)


def _object_key(one: ObjectHeader) -> str:
    return f"objects {one.study_uid}/{one.series_uid}"


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name.rpartition("/")[2])[0])


def _numbers(folder: str) -> tuple[int, int, int]:
    patient, study, series = (_number(part) for part in folder.split("/"))
    return patient, study, series
