"""Series: read one volume of instances; write its derived instances, all files or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.conformance import check_header
from salm_dicom.dicom.derive import Derivation, derived
from salm_dicom.dicom.encode import is_exactly
from salm_dicom.dicom.header import InstanceHeader, identity_of
from salm_dicom.dicom.multiframe import in_file_order, ordered
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.dicom.scan import group
from salm_dicom.dicom.slices import ReadFile, joined, put, read_file, stored_pixels
from salm_dicom.errors import Changed, GeometryError, MismatchError
from salm_dicom.folder import WholeFolder, file_name
from salm_dicom.volume import Integers, StoredPixels, Volume

_CHANGED = "a source file changed while it was being protected; run again"
# Inode, size and time of the last change of a file.
Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file in memory, its pixels as they lie in the volume, and what the disk said of it."""

    part10: Part10
    stamp: Stamp
    pixels: StoredPixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The files a volume came from, and their SHA-256: what a writer needs to find it again.

    `files` holds the files themselves, in order, if `read_series` was told to keep them; a writer
    then reads nothing twice. `frames` has for each slice of the volume of a multi-frame file the
    index of its frame.
    """

    paths: tuple[Path, ...]
    sha256: tuple[str, ...]
    files: tuple[KeptFile, ...] = ()
    frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One volume, the files it came from in order of the slices, and whose it is.

    `series_uid` is the source's, or what stands for it (`header.identity_of`).
    """

    volume: Volume
    origin: Origin
    series_uid: str


def read_series(paths: Sequence[Path], *, keep_files: bool = False) -> Series:
    """Return the one volume that the files make; slices are put in spatial order.

    Parameters
    ----------
    paths
        Files, in any order.
    keep_files
        Keep the files' bytes beside the volume, for a writer that follows at once.

    Raises
    ------
    InputError
        A file cannot be read exactly (its code says why), or the files make several volumes.
    """
    found: list[ReadFile] = []
    digests: list[str] = []
    files: list[tuple[Part10, Stamp]] = []
    stack: Integers = np.empty((0, 0, 0), dtype=np.int16)
    for index, path in enumerate(paths):
        stamp = _stamp(path)
        file, pixels, one = read_file(path)
        if len(paths) == 1 and one.header.frames > 1:
            kept = stamp if keep_files else None
            return multi_frame(file, one.header, pixels, file.sha256, kept)
        if not index:
            stack = np.empty((len(paths), *pixels.values.shape[1:]), dtype=pixels.values.dtype)
        put(pixels, stack, index)
        found.append(one)
        digests.append(file.sha256)
        if keep_files:
            files.append((file, stamp))
    return stacked(paths, found, stack, digests, files)


def stacked(
    paths: Sequence[Path],
    found: Sequence[ReadFile],
    stack: Integers,
    digests: Sequence[str] = (),
    files: Sequence[tuple[Part10, Stamp]] = (),
) -> Series:
    """Return the one volume that files of one slice each make, in spatial order.

    Parameters
    ----------
    paths, found, stack
        The files, what was read of each, and their slices, in the same order.
    digests, files
        SHA-256 of each file, and the files, where somebody needs them.

    Raises
    ------
    GeometryError
        They make several volumes, or none.
    """
    volumes, left_out = group(one.header for one in found)
    if left_out or len(volumes) != 1:
        reason = left_out[0].reason if left_out else f"the files make {len(volumes)} volumes"
        raise GeometryError(f"{reason}; one volume is needed. `salm-dicom scan` shows them")
    first, in_order = found[0].header, volumes[0].paths
    places = {path: index for index, path in enumerate(paths)}
    order = [places[path] for path in in_order]
    if order != list(range(len(order))):
        stack = stack[order]
    slices = [found[index].calibration for index in order]
    kept = [
        KeptFile(*files[index], slices[at].with_values(stack[at : at + 1]))
        for at, index in enumerate(order)
        if files
    ]
    return Series(
        volume=Volume(
            pixels=joined(slices, stack),
            affine=volumes[0].affine,
            modality=first.modality,
            photometric=str(first.pixel_format[3]),
            irregular=volumes[0].stack.irregular,
            quantity=volumes[0].quantity,
            window=found[order[len(order) // 2]].window,
        ),
        origin=Origin(
            paths=in_order,
            sha256=tuple(digests[index] for index in order if digests),
            files=tuple(kept),
        ),
        series_uid=first.series_uid,
    )


def multi_frame(
    file: Part10,
    instance: InstanceHeader,
    pixels: StoredPixels,
    sha256: str = "",
    stamp: Stamp | None = None,
) -> Series:
    """Return the series that one multi-frame file is; with a stamp it keeps the file."""
    volume, frames = ordered(file, instance, pixels)
    return Series(
        volume=volume,
        origin=Origin(
            paths=(instance.path,),
            sha256=(sha256,),
            files=() if stamp is None else (KeptFile(file, stamp, volume.pixels),),
            frames=frames,
        ),
        series_uid=instance.series_uid,
    )


def files_of(folder: Path, *, allow_quantitative: bool = False) -> list[Path]:
    """Return the image files below `folder`; a file that cannot be protected raises its code."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [image_header(p, allow_quantitative=allow_quantitative).path for p in found]


# Given a file's index and its stored pixels as they lie in the volume, (slices, rows, columns),
# returns the stored units to add; a file is one slice, or all slices of a multi-frame volume.
ChangeOf = Callable[[int, StoredPixels], Integers]
# Called with the source, the derived SOP Instance UID and the change, shape of its stored values.
OnSlice = Callable[[Part10, str, Integers], None]


def write_series(
    origin: Origin,
    change_of: ChangeOf,
    folder: Path,
    derivation: Derivation,
    on_slice: OnSlice = lambda *_: None,
) -> tuple[Path, ...]:
    """Write the derived instances of a series into a new folder and return their paths.

    Files that `origin` does not hold are read again, one at a time. Every instance is checked
    against its source before it is kept: all files of a series, or none (`WholeFolder`).

    Parameters
    ----------
    origin
        The source; its files must be the ones that were read before.
    change_of
        What to add to each slice; asked in order.
    folder
        Target; must not exist.
    derivation
        What was done; its record's budget and largest change are enforced.
    on_slice
        Told the change of each instance, for the vault.

    Raises
    ------
    MismatchError
        A derived instance is not what was meant (see `conformance.check_header`).
    Changed
        A source file is not the one that was read.
    """
    names = [file_name(folder.name, index) for index in range(1, len(origin.paths) + 1)]
    changed = 0
    with WholeFolder(folder) as out:
        for index, (source, before) in enumerate(_sources(origin)):
            delta = change_of(index, before)
            uid, data = _instance(source, before, delta, derivation, origin.frames)
            out.write(names[index], data)
            change = in_file_order(delta, origin.frames)
            on_slice(source, uid, change if origin.frames else change[0])
            changed += int(np.count_nonzero(delta))
        if not changed:
            raise MismatchError("no voxel of the series differs from the source; was SALM applied?")
        for path, kept in zip(origin.paths, origin.files, strict=False):
            if _stamp(path) != kept.stamp:
                raise Changed(_CHANGED)
    return tuple(folder / name for name in names)


def _sources(origin: Origin) -> Iterator[tuple[Part10, StoredPixels]]:
    """Yield each source file with its pixels: those that were kept, or read again now."""
    if origin.files:
        yield from ((kept.part10, kept.pixels) for kept in origin.files)
        return
    for path, sha256 in zip(origin.paths, origin.sha256, strict=True):
        file = read(path)
        if file.sha256 != sha256:
            raise Changed(_CHANGED)
        pixels = stored_pixels(file)
        yield file, pixels.taken(np.array(origin.frames)) if origin.frames else pixels


def _stamp(path: Path) -> Stamp:
    """Return inode, size and time of the last change; zeros for a file that is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def _instance(
    source: Part10,
    before: StoredPixels,
    delta: Integers,
    derivation: Derivation,
    frames: tuple[int, ...],
) -> tuple[str, bytes]:
    """Return SOP Instance UID and file of one derived instance.

    Range and padding are checked by `shifted`, the budget here, the header against the write
    policy, and the written pixels by decoding them again.
    """
    if derivation.deidentified is not None:
        source = derivation.deidentified(source)
    most = derivation.record.budget_stored
    found = max(int(delta.max(initial=0)), -int(delta.min(initial=0)))
    if found > most:
        raise MismatchError(f"a value would change by {found} stored units, {most} are allowed")
    after = in_file_order(before.shifted(delta).values, frames)
    data = derived(source, after if frames else after[0], derivation)
    protected = parse(data)
    findings = check_header(source, protected, derivation.references)
    if findings:
        raise MismatchError("; ".join(f"{f.code}: {f.text}" for f in findings))
    if not is_exactly(protected, source, in_file_order(delta, frames), after):
        raise MismatchError("decoding the written pixel data does not give what was meant")
    return identity_of(protected).sop_uid, data
