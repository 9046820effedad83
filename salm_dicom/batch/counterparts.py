"""Each labelled series of a source with its protected counterpart, read from disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from salm_dicom.batch import nifti
from salm_dicom.batch.catalog import AnySeries, Catalog
from salm_dicom.batch.labels import Labels
from salm_dicom.batch.masks import Masks, mask_of
from salm_dicom.batch.pairing import partners_of
from salm_dicom.batch.source import fill, listed
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.rewriting import NewUid
from salm_dicom.dicom.scan import LeftOut, SeriesFiles
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import InputError, NoLabel, NotProtected, PlanError
from salm_dicom.nifti.image import read as read_nifti_file
from salm_dicom.nifti.scan import NiftiFile
from salm_dicom.nifti.series import read_nifti, stored_pixels
from salm_dicom.protector import Mask
from salm_dicom.volume import Integers, StoredPixels, Volume

# Protected files by what they name as their source: a SOP Instance UID or a SHA-256.
Partners = dict[str, list[Path]]
SPLIT_BY = ("patient", "study", "series")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One series before and after.

    Parameters
    ----------
    paths
        Files of the source.
    patient
        Whose it is, or what stands for that; never shown.
    is_known
        Whether the series says whose it is.
    label
        Empty where there are masks.
    load
        Returns the source and the protected stored values, in the order of its slices; of a
        NIfTI file over time the first volume.
    mask
        Returns the mask of the source; None where there are labels.
    """

    paths: tuple[Path, ...]
    patient: str
    is_known: bool
    label: str
    fitted: bool | None
    load: Callable[[], tuple[Volume, StoredPixels]]
    mask: Callable[[], Mask] | None = None


def pairs(
    source: Path,
    output: Path,
    labels: Labels | Path,
    *,
    split_by: str = "patient",
    fitted: Labels | Path | None = None,
    modality: str | None = None,
    source_uid: NewUid = str,
) -> tuple[list[Pair], list[LeftOut]]:
    """Return the labelled series that are in both exports, and every file that is in no pair.

    DICOM files are paired by Source Image Sequence, NIfTI files by the SHA-256 in the sidecar; no
    manifest is believed.

    Parameters
    ----------
    labels
        Of the series; or where their masks are, a file or a folder.
    split_by
        What stands for a patient: one of `SPLIT_BY`.
    fitted
        Labels or masks that the protector was fitted with, to tell series it has never seen.
    modality
        Of NIfTI files whose sidecar does not say.
    source_uid
        Returns the UID by which OUT names an instance of the source.
    """
    for place, name in ((source, "SOURCE"), (output, "OUT")):
        if not place.is_dir():
            raise PlanError(f"{name} is not a folder")
    partners = partners_of(output)[0] | nifti.partners(output)[0]
    with Catalog.new() as catalog:
        fill(catalog, source, modality, allow_quantitative=True)  # what is not in OUT goes anyway
        export = listed(catalog)
        given = _given(labels, source, catalog)
        seen = None if fitted is None else _given(fitted, source, catalog)
    found: list[Pair] = []
    left_out = list(export.left_out)
    for series in export.series:
        try:
            found.append(_pair(series, partners, given, split_by, seen, source, source_uid))
        except InputError as error:
            left_out += [LeftOut(path, error.code, str(error)) for path in series.paths]
    return found, left_out


def _pair(
    series: AnySeries,
    partners: Partners,
    given: Labels | Masks,
    split_by: str,
    fitted: Labels | Masks | None,
    root: Path,
    source_uid: NewUid,
) -> Pair:
    names = [series.sha256] if isinstance(series, NiftiFile) else _instances(series)
    after = [_only(partners.get(source_uid(name), [])) for name in names]
    patient = _patient(series, split_by, root)
    label = given.of(series)
    is_mask = isinstance(given, Masks)
    return Pair(
        paths=series.paths,
        patient=patient or f"series {names[0]}",
        is_known=bool(patient),
        label="" if is_mask else label,
        fitted=None if fitted is None else _is_in(fitted, series),
        load=lambda: _load(series, after),
        mask=(lambda: mask_of(series, label)) if is_mask else None,
    )


def _given(labels: Labels | Path, root: Path, catalog: Catalog) -> Labels | Masks:
    return Masks(labels, root, catalog) if isinstance(labels, Path) else labels


def _instances(series: SeriesFiles) -> list[str]:
    return [instance.sop_uid for instance in series.headers]


def _only(paths: list[Path]) -> Path:
    if not paths:
        raise NotProtected("OUT has no protected counterpart of it, or not of all its instances")
    if len(paths) > 1:
        raise NotProtected(
            f"OUT has {len(paths)} protected counterparts of an instance; audit one output at a "
            "time"
        )
    return paths[0]


def _patient(series: AnySeries, split_by: str, root: Path) -> str:
    """Return what stands for the patient; empty where the series does not say."""
    if split_by == "series":
        return f"series {series.series_uid}"
    if isinstance(series, NiftiFile):
        folders = series.path.relative_to(root).parts
        return next((f"file {part}" for part in folders if part.startswith("sub-")), "")
    first = series.headers[0]
    said = first.patient_id if split_by == "patient" else first.study_uid
    return f"{split_by} {said}" if said else ""


def _is_in(labels: Labels | Masks, series: AnySeries) -> bool:
    try:
        labels.of(series)
    except NoLabel:
        return False
    return True


def _load(series: AnySeries, after: list[Path]) -> tuple[Volume, StoredPixels]:
    if isinstance(series, NiftiFile):
        volume = read_nifti(series.path, series.modality, allow_quantitative=True).volumes[0]
        values = stored_pixels(read_nifti_file(after[0]), 0).values
        _check_size(values, volume.pixels.values)
        return volume, replace(volume.pixels, values=values)
    found = read_series(series.paths)
    volume, frames = found.volume, found.origin.frames
    before = volume.pixels.values
    read_again = [stored_values(read(path)) for path in after]
    for values in read_again:
        _check_size(values, before if frames else before[0])
    values = read_again[0][list(frames)] if frames else np.stack(read_again)
    return volume, replace(volume.pixels, values=values)


def _check_size(protected: Integers, source: Integers) -> None:
    if protected.shape != source.shape:
        raise NotProtected("its protected counterpart has another size; run `salm-dicom verify`")
