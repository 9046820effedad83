"""Four independent decoders read the same stored values from protected files of every syntax.

pydicom with its plug-ins, GDCM, DCMTK (which has no JPEG 2000) and what Cornerstone viewers use.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from salm_dicom.batch.protect import Request, protect
from salm_dicom.plan import ProtectionPlan
from tests.synthetic import SYNTAXES, write_ct_series
from tests.synthetic_frames import (
    ColourRecipe,
    EnhancedRecipe,
    stack,
    write_colour,
    write_enhanced,
)

pytestmark = pytest.mark.programs

DCMTK = {RLELossless: ["dcmdrle"], JPEGLSLossless: ["dcmdjpls"], JPEG2000Lossless: None}
RAW = ["dcmconv", "+te"]


def write_sources(folder: Path) -> None:
    """Write series of every syntax: 8, 12 and 16 bits, signed or not, frames and colour."""
    kinds = [
        {"bits_stored": 16, "signed": True},
        {"bits_stored": 12, "signed": False},
        {"bits_stored": 12, "signed": True},
        {"bits_stored": 8, "signed": False, "slope": 8.0},
    ]
    for number, syntax in enumerate(SYNTAXES):
        for kind in kinds:
            seed = len(list(folder.glob("*")))
            write_ct_series(
                folder / f"{seed}", slices=2, rows=65, columns=63, seed=seed,
                patient_id=f"P{seed}", transfer_syntax=syntax, **kind,
            )  # fmt: skip
        frames = EnhancedRecipe(frames=stack(5), transfer_syntax=syntax, seed=100 + number)
        write_enhanced(folder / f"frames-{number}" / "a.dcm", frames)
    for number, (planar, syntax) in enumerate(
        [(0, ExplicitVRLittleEndian), (1, ExplicitVRLittleEndian), (0, RLELossless)]
    ):
        recipe = ColourRecipe(
            planar=planar, transfer_syntax=syntax, seed=200 + number, rows=64, columns=64
        )
        write_colour(folder / f"colour-{number}" / "a.dcm", recipe)


def protected_files(source: Path, folder: Path) -> tuple[list[Path], int]:
    """Protect an export; return the files, and how many sources were left out."""
    request = Request(
        source=source, output=folder / "out", vault=folder / "vault", protector=None,
        plan=ProtectionPlan(method="random", epsilon="16/255"), labels=None,
        created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"k" * 16,
    )  # fmt: skip
    result = protect(request)
    return sorted((folder / "out").rglob("*.dcm")), len(result.left_out)


@pytest.fixture(scope="module")
def protected(tmp_path_factory) -> list[Path]:
    """Return protected files of all sources, written by one run of the batch."""
    folder = tmp_path_factory.mktemp("decoders")
    write_sources(folder / "export")
    files, left_out = protected_files(folder / "export", folder)
    assert not left_out
    return files


def of_pydicom(path: Path) -> np.ndarray:
    """Return stored values, (frames, rows, columns, samples), as all functions here do."""
    dataset = pydicom.dcmread(path)
    shape = (-1, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    return np.asarray(pixel_array(dataset, raw=True)).reshape(shape)


def of_words(words: bytes, dataset: Dataset, planar: int) -> np.ndarray:
    """Return the stored values of words, little endian, that a program gave.

    Bits above Bits Stored are the sign's or anybody's, and are not compared.
    """
    rows, columns, samples = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    frames = int(dataset.get("NumberOfFrames", 1))
    count = frames * rows * columns * samples
    found = np.frombuffer(words, f"<u{len(words) // count}", count).astype(np.int64)
    sign = 1 << dataset.BitsStored - 1
    found &= 2 * sign - 1
    if dataset.PixelRepresentation:
        found = (found ^ sign) - sign
    if planar and samples > 1:
        return np.moveaxis(found.reshape(frames, samples, rows, columns), 1, -1)
    return found.reshape(frames, rows, columns, samples)


def raw_file(command: list[str], path: Path, target: Path) -> np.ndarray:
    """Return the stored values of the raw file that a program makes."""
    done = subprocess.run([*command, path, target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    dataset = pydicom.dcmread(target)
    assert not dataset.file_meta.TransferSyntaxUID.is_compressed
    return of_words(dataset.PixelData, dataset, dataset.get("PlanarConfiguration", 0))


def checked(files: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Yield each file with what pydicom reads; there must be some of every syntax."""
    found = set()
    for path in files:
        found.add(pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        yield path, of_pydicom(path)
    assert found == set(SYNTAXES)


def test_gdcm_reads_what_pydicom_reads(protected, tmp_path):
    for path, values in checked(protected):
        found = raw_file(["gdcmconv", "--raw"], path, tmp_path / "raw.dcm")
        assert np.array_equal(found, values), path


def test_dcmtk_reads_what_pydicom_reads(protected, tmp_path):
    for path, values in checked(protected):
        syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
        command = DCMTK.get(syntax, RAW)
        if command is not None:
            found = raw_file(command, path, tmp_path / "raw.dcm")
            assert np.array_equal(found, values), path


def of_cornerstone(folder: Path, files: list[Path]) -> list[np.ndarray]:
    """Return the stored values of all files as a Cornerstone viewer decodes them."""
    command = ["node", folder / "decode.cjs", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in files]
    return [words_beside(Path(line["file"]), line["planar"]) for line in lines]


def words_beside(path: Path, planar: int) -> np.ndarray:
    words = path.with_name(f"{path.name}.words").read_bytes()
    return of_words(words, pydicom.dcmread(path), planar)


def test_cornerstone_reads_what_pydicom_reads(protected, cornerstone):
    found = of_cornerstone(cornerstone, protected)
    for (path, values), theirs in zip(checked(protected), found, strict=True):
        assert np.array_equal(theirs, values), path


@pytest.mark.parametrize("name", ["ct_siemens_j2k_series", "jpeg_codecs", "mr_enhanced"])
def test_real_files_are_read_alike_by_all(shared, tmp_path, cornerstone, name):
    files, _ = protected_files(shared / "data" / name, tmp_path)
    assert files
    for path, theirs in zip(files, of_cornerstone(cornerstone, files), strict=True):
        values = of_pydicom(path)
        assert np.array_equal(theirs, values), path
        gdcm = raw_file(["gdcmconv", "--raw"], path, tmp_path / "raw.dcm")
        assert np.array_equal(gdcm, values), path
