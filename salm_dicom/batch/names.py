"""Names in the output: counters of patient, study and series; never UIDs or patient data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from salm_dicom.batch.ledger import Ledger, Row
from salm_dicom.batch.nifti import PREFIX
from salm_dicom.batch.source import Export, source_key
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.scan import SeriesFiles
from salm_dicom.folder import file_name


@dataclass(frozen=True, slots=True)
class Unit:
    """What gets a folder of its own, and whose it is."""

    key: str
    patient_id: str
    study_uid: str


# Folders of a patient, a study and a series; on media (PS3.10 8.5) names have eight characters.
_FOLDERS = "patient-{:04d}/study-{:02d}/series-{:03d}"
_MEDIA_FOLDERS = "PT{:06d}/ST{:06d}/SE{:06d}"


def for_media(found: Export, rows: Mapping[str, Row]) -> bool:
    """Return whether an output's names are those that a DICOMDIR can hold.

    They are where the source has a DICOMDIR, and stay what the first run made them.
    """
    names = [row.name for row in rows.values() if not row.name.startswith(PREFIX)]
    return names[0].startswith("PT") if names else bool(found.indexes)


def plan_names(found: Export, ledger: Ledger) -> None:
    """Give every series, NIfTI file and object of the export that is new its place in the output.

    Objects of one series share a folder; folders of objects come after those of images.
    """
    rows, objects = ledger.rows(), ledger.rows("objects")
    images = {source: row for source, row in rows.items() if row.name.startswith(PREFIX)}
    series = {source: row for source, row in rows.items() if source not in images}
    number = max((int(row.name.removeprefix(PREFIX)) for row in images.values()), default=0)
    new = [file for file in found.nifti if source_key(file) not in images]
    planned = [
        (source_key(file), f"{PREFIX}{place:04d}", file.images)
        for place, file in enumerate(new, start=number + 1)
    ]
    taken = {source: row.name for source, row in series.items()}
    taken |= {f"object {source}": _folder(row.name) for source, row in objects.items()}
    for one in found.objects:
        if one.sop_uid in objects:
            taken[_object_key(one)] = _folder(objects[one.sop_uid].name)
    units = [_unit(one) for one in found.dicom]
    units += [Unit(_object_key(one), one.patient_id, one.study_uid) for one in found.objects]
    folders = taken | new_folders(units, taken, media=for_media(found, series))
    keys = [(source_key(files), files.images) for files in found.dicom]
    ledger.plan([*planned, *((key, folders[key], images) for key, images in keys)])
    ledger.plan(_places(found.objects, folders, objects), table="objects")


def _places(
    found: Iterable[ObjectHeader], folders: Mapping[str, str], known: Mapping[str, Row]
) -> Iterator[tuple[str, str, int]]:
    """Yield what the ledger is told of each object that it does not know."""
    last: dict[str, int] = {}
    for row in known.values():
        last[_folder(row.name)] = max(last.get(_folder(row.name), 0), _number(row.name))
    for one in found:
        if one.sop_uid not in known:
            folder = folders[_object_key(one)]
            last[folder] = last.get(folder, 0) + 1
            place = f"{folder}/{file_name(folder, last[folder])}"
            yield one.sop_uid, place, 1


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
    # the highest number below: of patients, of a patient's studies, of a study's series
    last: dict[tuple[int, ...], int] = {}
    for folder in known.values():
        numbers = _numbers(folder)
        for depth, number in enumerate(numbers):
            last[numbers[:depth]] = max(last.get(numbers[:depth], 0), number)

    def following(*above: int) -> int:
        last[above] = last.get(above, 0) + 1
        return last[above]

    folders: dict[str, str] = {}
    for unit in units:
        if unit.key in known or unit.key in folders:
            continue
        if unit.patient_id not in patients:
            patients[unit.patient_id] = following()
        patient = patients[unit.patient_id]
        if (unit.patient_id, unit.study_uid) not in studies:
            studies[unit.patient_id, unit.study_uid] = patient, following(patient)
        _, study = studies[unit.patient_id, unit.study_uid]
        pattern = _MEDIA_FOLDERS if media else _FOLDERS
        folders[unit.key] = pattern.format(patient, study, following(patient, study))
    return folders


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


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
