"""The DICOMDIR of an output, made anew by pydicom's FileSet; and a check of one.

A DICOMDIR may only name files by components of up to eight capitals, digits and underscores
(PS3.10 8.5). FileSet would copy every file to names of its own choice; here it gets headers only,
and its names, which have the length of ours, are replaced by ours in what it wrote.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import pydicom
from pydicom.fileset import FileSet
from pydicom.uid import UID

INDEX = "DICOMDIR"
_FILE_ID = re.compile(rb"([A-Z]{2}[0-9]{6}\\){3}[A-Z0-9]{2}[0-9]{6}")


def index_of(root: Path, files: Iterable[Path], uid: str) -> tuple[bytes, list[Path]]:
    """Return the DICOMDIR of `files` below `root`, and those that cannot be in it.

    The same files give the same bytes. A file is left out that lacks what a directory record must
    have: Study Date and Time, Study ID, Series or Instance Number.

    Parameters
    ----------
    root, files
        Folder that the index will lie in; files below it named by four conformant components.
    uid
        SOP Instance UID of the DICOMDIR.
    """
    left_out: list[Path] = []
    names: dict[bytes, bytes] = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        index = FileSet()
        index.UID = UID(uid)
        added = []
        for path in files:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            try:
                added.append((path, index.add(header)))
            except (ValueError, AttributeError, KeyError):
                left_out.append(path)
        for path, instance in added:
            ours = "\\".join(path.relative_to(root).parts)
            names[instance.FileID.replace("/", "\\").encode()] = ours.encode("ascii")
        if not added:
            return b"", left_out
        index.write(Path(folder))
        data = (Path(folder) / INDEX).read_bytes()
    return _FILE_ID.sub(lambda found: names[found.group()], data), left_out


def uid_of(path: Path) -> str:
    """Return the SOP Instance UID of a DICOMDIR that `index_of` made."""
    return str(pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID)


def strays(path: Path) -> list[str]:
    """Return what is wrong with a DICOMDIR: each file that is not there or is another instance."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            records = pydicom.dcmread(path).DirectoryRecordSequence
        except Exception as error:  # what pydicom raises at broken bytes is not foreseeable
            return [f"the DICOMDIR cannot be parsed ({type(error).__name__})"]
        for record in records:
            name = record.get("ReferencedFileID")
            if not name:
                continue
            file = path.parent.joinpath(*([name] if isinstance(name, str) else name))
            uid = record.get("ReferencedSOPInstanceUIDInFile")
            if not file.is_file():
                found.append("names a file that is not there")
            elif pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID != uid:
                found.append("names another instance than its file is")
    return found
