"""Sort a catalog: copies of instances, which files make a volume, the order of series and objects.

Only what belongs together is in memory at a time.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from operator import itemgetter

from salm_dicom.batch.catalog import Catalog
from salm_dicom.batch.packing import packed, unpacked
from salm_dicom.dicom.geometry import stacks
from salm_dicom.dicom.header import InstanceHeader
from salm_dicom.dicom.objects import ObjectHeader
from salm_dicom.dicom.quantitative import mapped_uids
from salm_dicom.dicom.scan import LeftOut, SeriesFiles, order, twins
from salm_dicom.errors import InputError, Quantitative
from salm_dicom.quantity import MAPPED, check_allowed

_SORTED = """
CREATE INDEX left_out_path ON left_out (path);
INSERT INTO series (key, kind, patient_id, study_uid, images, members, about)
    SELECT key, 'dicom', patient_id, study_uid, images, members, about FROM found
    ORDER BY patient_id, study_uid, series_uid, along, number, sop_uid;
INSERT INTO objects (key, patient_id, study_uid, series_uid, header)
    SELECT key, patient_id, study_uid, series_uid, header FROM found_objects
    ORDER BY patient_id, study_uid, series_uid, key;
DROP TABLE found;
DROP TABLE found_objects;
"""


def sort(catalog: Catalog, *, allow_quantitative: bool = False) -> None:
    """Put what was added to a catalog in order, once all of it is there.

    Parameters
    ----------
    allow_quantitative
        Keep images that an object maps to real-world values.
    """
    tables = catalog.connection
    tables.execute("CREATE INDEX files_uid ON files (sop_uid)")
    query = "SELECT sop_uid FROM files GROUP BY sop_uid HAVING count(*) > 1"
    for (uid,) in tables.execute(query).fetchall():
        _settle_twins(catalog, uid)
    _mark_mapped(catalog, allow_quantitative)
    query = "SELECT id, volume FROM files WHERE kind = 'image' ORDER BY volume, id"
    for _, rows in groupby(tables.execute(query), key=itemgetter(1)):
        _group(catalog, [number for number, _ in rows])
    objects = tables.execute("SELECT header FROM files WHERE kind = 'object'")
    sql = "INSERT INTO found_objects VALUES (?, ?, ?, ?, ?)"
    tables.executemany(sql, (_object_row(header) for (header,) in objects))
    tables.executescript(_SORTED)


def _settle_twins(catalog: Catalog, uid: str) -> None:
    """Keep one of the files with one SOP Instance UID, or none."""
    query = "SELECT id, kind, header FROM files WHERE sop_uid = ? ORDER BY id"
    rows = catalog.connection.execute(query, (uid,)).fetchall()
    same: list[InstanceHeader | ObjectHeader] = []
    for _, kind, header in rows:
        is_image = kind == "image"
        same.append(
            unpacked(header, InstanceHeader) if is_image else unpacked(header, ObjectHeader)
        )
    kept, left_out = twins(same)
    gone = [(number,) for (number, *_), one in zip(rows, same, strict=True) if one is not kept]
    catalog.connection.executemany("DELETE FROM files WHERE id = ?", gone)
    catalog.leave_out(left_out)


def _mark_mapped(catalog: Catalog, allow_quantitative: bool) -> None:
    """Mark the images that an object maps to real-world values, or leave them out."""
    tables = catalog.connection
    rows = tables.execute("SELECT header FROM files WHERE kind = 'object'")
    uids = mapped_uids(unpacked(header, ObjectHeader) for (header,) in rows)
    tables.executemany("INSERT OR IGNORE INTO mapped VALUES (?)", ((uid,) for uid in uids))
    query = (
        "SELECT f.id, f.header FROM mapped JOIN files AS f ON f.sop_uid = mapped.uid "
        "WHERE f.kind = 'image'"
    )
    for number, header in tables.execute(query).fetchall():
        one = unpacked(header, InstanceHeader)
        one = one if one.quantity else replace(one, quantity=MAPPED)
        try:
            check_allowed(one.quantity, allow_quantitative)
        except Quantitative as error:
            tables.execute("DELETE FROM files WHERE id = ?", (number,))
            catalog.leave_out([LeftOut(one.path, error.code, str(error))])
        else:
            row = (packed(one), number)
            tables.execute("UPDATE files SET header = ? WHERE id = ?", row)


def _group(catalog: Catalog, members: list[int]) -> None:
    """Add the volumes that the images of one volume key make."""
    headers = list(catalog.headers(json.dumps(members)))
    number_of = {id(one): number for one, number in zip(headers, members, strict=True)}
    try:
        found = [SeriesFiles(stack=stack) for stack in stacks(headers)]
    except InputError as error:
        catalog.leave_out(LeftOut(one.path, error.code, str(error)) for one in headers)
        return
    for series in found:
        stack = series.stack
        about = [stack.affine.tolist(), stack.irregular, stack.gaps_mm]
        numbers = [number_of[id(one)] for one in series.headers]
        row = (series.key, *order(series), series.images, json.dumps(numbers), json.dumps(about))
        sql = f"INSERT INTO found VALUES ({', '.join('?' * len(row))})"
        catalog.connection.execute(sql, row)


def _object_row(header: str) -> tuple[str, ...]:
    one = unpacked(header, ObjectHeader)
    return one.sop_uid, one.patient_id, one.study_uid, one.series_uid, header
