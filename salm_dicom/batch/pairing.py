"""Which DICOM file of an output was made from which instance of the source, by what it says."""

from __future__ import annotations

from pathlib import Path

from salm_dicom.dicom import header as h
from salm_dicom.dicom.conformance import derivations
from salm_dicom.dicom.index import INDEX, strays
from salm_dicom.dicom.objects import COPIED
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.peek import read_header
from salm_dicom.errors import InputError
from salm_dicom.nifti.image import is_nifti


def partners_of(
    output: Path,
) -> tuple[dict[str, list[Path]], list[Path], list[tuple[Path, str]]]:
    """Return the images of the output by the source that they name, the objects, and the rest."""
    partners: dict[str, list[Path]] = {}
    copies: list[Path] = []
    strange: list[tuple[Path, str]] = []
    files = (p for p in output.rglob("*") if p.is_file() and p.suffix != ".json")
    for path in sorted(p for p in files if not is_nifti(p)):
        if path == output / INDEX:
            strange += [(path, what) for what in strays(path)]
            continue
        try:
            file, _, _ = read_header(path)
            if h.text_of(file, h.SOP_CLASS_UID) in COPIED and h.is_protected(file):
                read(path)  # it is compared as a whole
                copies.append(path)
                continue
        except InputError as error:
            strange.append((path, f"{error.code}: {error}"))
            continue
        try:
            sources = {said.source_uid for said in derivations(file)}
        except InputError:
            sources = set()
        if len(sources) != 1 or "" in sources or not h.is_protected(file):
            strange.append((path, "does not say what it was derived from, or not by salm_dicom"))
            continue
        partners.setdefault(sources.pop(), []).append(path)
    return partners, copies, strange
