"""NIfTI files in the batch: what the vault keeps of one, restore one, verify one."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.batch.pair import Pair
from salm_dicom.batch.vault import Vault, read_arrays, save_arrays
from salm_dicom.errors import InputError, NoModality
from salm_dicom.foreground import foreground
from salm_dicom.nifti.conformance import check, provenance_of
from salm_dicom.nifti.image import read
from salm_dicom.nifti.restore import KeptFrames, restored
from salm_dicom.nifti.series import NiftiSeries, read_nifti, stored_pixels
from salm_dicom.nifti.sidecar import read_sidecar
from salm_dicom.volume import Integers

# Folders of NIfTI images in the output begin so, those of DICOM series with `patient-`.
PREFIX = "nifti-"


def keep_frames(path: Path, series: NiftiSeries, deltas: Sequence[Integers]) -> None:
    """Write what the restoration needs: a bit for each voxel, and the changes."""
    save_arrays(
        path,
        sha256=np.array([series.origin.sha256, series.file_sha256]),
        shape=np.array([len(deltas), *deltas[0].shape]),
        where=np.packbits(np.stack([delta != 0 for delta in deltas])),
        change=np.concatenate([delta[delta != 0] for delta in deltas]),
    )


def read_kept_frames(path: Path) -> KeptFrames:
    """Return what is needed to restore a NIfTI file.

    Raises
    ------
    MismatchError
        The file is missing or damaged.
    """
    return read_arrays(path, _kept_frames)


def _kept_frames(arrays: Mapping[str, NDArray[Any]]) -> KeptFrames:
    sha256, file_sha256 = arrays["sha256"].tolist()
    deltas = np.zeros(arrays["shape"].tolist(), dtype=np.int32)
    where = np.unpackbits(arrays["where"], count=deltas.size).astype(bool)
    deltas[where.reshape(deltas.shape)] = arrays["change"]
    return KeptFrames(deltas=deltas, sha256=sha256, file_sha256=file_sha256)


def note_images(vault: Vault, images: Iterable[tuple[str, Path]]) -> None:
    """Note in the vault which NIfTI file each folder of the output is made from."""
    rest = iter(images)
    first = next(rest, None)
    if first is None:
        return
    descriptor = os.open(vault.images, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", newline="", encoding="utf-8", errors="surrogateescape") as out:
        csv.writer(out).writerows(chain([("folder", "source"), first], rest))


def restore_file(path: Path, kept: Path) -> tuple[bytes, bool]:
    """Return the source file, and whether it is the very bytes that were on disk.

    Raises
    ------
    InputError, MismatchError
    """
    frames = read_kept_frames(kept)
    source = restored(read(path), frames)
    data = source.to_file()
    return data, hashlib.sha256(data).hexdigest() == frames.file_sha256


def verify_file(source: Path, protected: Path) -> tuple[list[tuple[str, str]], list[Pair]]:
    """Return what is wrong with a protected file, and its frames for measuring.

    The foreground is computed again from the source, of the modality that the output states.

    Raises
    ------
    InputError
        One of the two cannot be read.
    """
    said = provenance_of(protected)
    modality = read_sidecar(protected).get("Modality")
    series = read_nifti(source, modality, allow_quantitative=True)
    volumes = series.volumes
    masks = [foreground(volume.pixels, volume.modality) for volume in volumes]
    before, after = read(source), read(protected)
    findings = list(check(before, after, said, masks.__getitem__))
    if before.voxels().shape != after.voxels().shape:
        return findings, []
    pairs = [
        Pair(
            source=volume,
            after=stored_pixels(after, frame).values,
            mask=masks[frame],
            has_after=np.ones(len(masks[frame]), dtype=bool),
        )
        for frame, volume in enumerate(volumes)
    ]
    return findings, pairs


def partners(output: Path) -> tuple[dict[str, list[Path]], list[tuple[Path, str]]]:
    """Return the protected files of an output by their source's SHA-256, and those of no source."""
    found: dict[str, list[Path]] = {}
    strange: list[tuple[Path, str]] = []
    for path in sorted(p for s in (".nii", ".nii.gz") for p in output.rglob(f"*{s}")):
        source = provenance_of(path).get("SourceSHA256")
        if isinstance(source, str):
            found.setdefault(source, []).append(path)
        else:
            strange.append((path, "has no sidecar that says what it was derived from"))
    return found, strange


def is_unprotected(path: Path) -> bool:
    """Return whether a source file without a protected one could have been protected.

    Without a sidecar nothing says of which modality it is: then it could, with `--modality`.
    """
    try:
        read_nifti(path)
    except NoModality:
        return True
    except InputError:
        return False
    return True
