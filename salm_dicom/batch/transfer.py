"""Pull an export from a PACS, push an output to one; a second run goes on where one ended.

What came lies under names made of digests, complete or not at all; what a PACS has already is asked
of it, so neither way needs a list of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from salm_dicom.dicom import header as h
from salm_dicom.dicom.network.node import Node, Query, Remote
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.errors import InputError, NotDicom, NotTransferred
from salm_dicom.folder import make_private

Progress = Callable[[str, int, int], None]
# Asked for in one operation: so many are lost to memory and repeated when it breaks.
_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What came of a transfer.

    Parameters
    ----------
    done, there
        Instances of this run, and such as were there already.
    failed
        Files, or names of instances in the export, that did not come through.
    """

    done: int = 0
    there: int = 0
    failed: tuple[LeftOut, ...] = field(default=())


def place_of(folder: Path, one: Remote) -> Path:
    """Return where an instance lies below an export; the names say nothing of it."""
    study, series, instance = (
        hashlib.sha256(uid.encode()).hexdigest()[:20]
        for uid in (one.study, one.series, one.instance)
    )
    return folder / study / series / f"{instance}.dcm"


def pull(
    node: Node, query: Query, folder: Path, progress: Progress = lambda *_: None
) -> Transferred:
    """Fetch what fits a query into a folder; what is there is not fetched again.

    Raises
    ------
    PacsError
        The way to the PACS broke; what came is kept.
    """
    found = sorted(set(node.find(query)), key=attrgetter("study", "series", "instance"))
    wanted = [one for one in found if not place_of(folder, one).exists()]
    make_private(folder)
    done = 0
    progress("pull", 0, len(wanted))
    for _, series in groupby(wanted, key=attrgetter("study", "series")):
        members = list(series)
        for start in range(0, len(members), _AT_ONCE):
            some = {one.instance: one for one in members[start : start + _AT_ONCE]}
            node.fetch(list(some.values()), partial(_keep, folder, some))
            done += sum(place_of(folder, one).exists() for one in some.values())
            progress("pull", done, len(wanted))
    text = "the PACS lists it and did not send it, or not as what it lists"
    lost = [place_of(folder, one) for one in wanted if not place_of(folder, one).exists()]
    return Transferred(
        done=done,
        there=len(found) - len(wanted),
        failed=tuple(LeftOut(path, NotTransferred.code, text) for path in lost),
    )


def _keep(folder: Path, wanted: dict[str, Remote], data: bytes) -> None:
    """Write a file that came, if it is one that was asked for; complete or not at all."""
    try:
        one = wanted.get(h.identity_of(parse(data)).sop_uid)
    except InputError:
        return
    if one is None:
        return
    path = place_of(folder, one)
    make_private(path.parent.parent)
    make_private(path.parent)
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def push(node: Node, folder: Path, progress: Progress = lambda *_: None) -> Transferred:
    """Send the DICOM files below a folder; what the PACS has already is not sent again.

    Raises
    ------
    PacsError
        The way to the PACS broke; what it took stays there.
    """
    files, failed = _files(folder)
    total, done, there = sum(map(len, files.values())), 0, 0
    progress("push", 0, total)
    for study, members in files.items():
        has = node.stored(study) if study else set()
        todo = [path for path, uid in members if uid not in has]
        there += len(members) - len(todo)
        for start in range(0, len(todo), _AT_ONCE):
            some = todo[start : start + _AT_ONCE]
            refused = node.send(some)
            failed += [LeftOut(path, NotTransferred.code, why) for path, why in refused]
            done += len(some) - len(refused)
            progress("push", done + there, total)
    return Transferred(done=done, there=there, failed=tuple(failed))


def _files(folder: Path) -> tuple[dict[str, list[tuple[Path, str]]], list[LeftOut]]:
    """Return the instances below a folder by study, and what is DICOM but cannot be read."""
    found: dict[str, list[tuple[Path, str]]] = {}
    failed: list[LeftOut] = []
    for path in _below(folder):
        try:
            file = read(path)
            if h.META_SOP_CLASS_UID in file.meta and h.SOP_INSTANCE_UID in file:
                study = h.text_of(file, h.STUDY_UID)
                found.setdefault(study, []).append((path, h.identity_of(file).sop_uid))
        except NotDicom:
            continue  # a manifest, a NIfTI file
        except InputError as error:
            failed.append(LeftOut(path, error.code, str(error)))
    return found, failed


def _below(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "DICOMDIR")
