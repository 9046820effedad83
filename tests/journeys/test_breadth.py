"""Enhanced MR, colour ultrasound and cine from export to shared and back; and through MONAI."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, RLELossless

from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.transforms import SALM, LoadVolume, SaveVolume
from tests.command import run
from tests.synthetic_frames import (
    ColourRecipe,
    EnhancedRecipe,
    stack,
    write_colour,
    write_enhanced,
)

SOURCES = {
    "enhanced": EnhancedRecipe(
        frames=tuple(reversed(stack(4, echo=1.0))) + stack(3, echo=2.0),
        sop_class=EnhancedMRImageStorage,
    ),
    "volume": EnhancedRecipe(frames=stack(5), seed=2),
    "rgb": ColourRecipe(photometric="RGB", planar=1, regions=((2, 2, 35, 30),), seed=3),
    "cine": ColourRecipe(photometric="YBR_FULL_422", frames=4, seed=4),
    "grey": ColourRecipe(photometric="MONOCHROME2", frames=3, modality="XA", seed=5),
    "rle": ColourRecipe(photometric="RGB", frames=3, transfer_syntax=RLELossless, seed=6),
    "deflated": ColourRecipe(
        photometric="MONOCHROME2", transfer_syntax=DeflatedExplicitVRLittleEndian, seed=7
    ),
}
PACKED = {"rle", "deflated"}


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("breadth") / "export"
    for name, recipe in SOURCES.items():
        make = write_enhanced if isinstance(recipe, EnhancedRecipe) else write_colour
        make(folder / f"{name}.dcm", recipe)
    return folder


@pytest.fixture(scope="module")
def shared_export(export) -> Path:
    out = export.parent / "out"
    result = run("protect", export, "-o", out, "--method", "random", "--progress", "none")
    assert result.exit_code == 0, result.output
    return out


def test_scan_says_how_many_frames_there_are(export):
    result = run("scan", export, "--json")
    assert result.exit_code == 0
    rows = [json.loads(line) for line in result.output.splitlines()]
    slices = {Path(r["files"][0]).stem: r["slices"] for r in rows if r["type"] == "series"}
    assert slices["enhanced"] == 7
    assert slices["cine"] == 4
    assert slices["rgb"] == 1


def test_verify_passes_what_protect_wrote(export, shared_export):
    result = run("verify", export, shared_export, "--progress", "none")
    assert result.exit_code == 0, result.output
    assert "7 series" in result.output


def test_verify_finds_a_frame_and_a_colour_that_were_changed_afterwards(
    export, shared_export, tmp_path
):
    for source in ("enhanced", "rgb"):
        uid = pydicom.dcmread(export / f"{source}.dcm").SOPInstanceUID
        (path,) = [p for p in shared_export.rglob("*.dcm") if uid.encode() in p.read_bytes()]
        dataset = pydicom.dcmread(path)
        values = bytearray(dataset.PixelData)
        middle = (len(values) // 4) * 2
        values[middle] ^= 1  # one byte: one frame's voxel, or red without green and blue
        dataset.PixelData = bytes(values)
        other = tmp_path / source / path.relative_to(shared_export)
        other.parent.mkdir(parents=True)
        dataset.save_as(other)
        result = run("verify", export, tmp_path / source, "--progress", "none")
        assert result.exit_code == 9, result.output


def test_restore_gives_every_source_back(export, shared_export, tmp_path):
    vault = shared_export.with_name("out.vault")
    result = run(
        "restore", shared_export, "-o", tmp_path / "back", "--vault", vault, "--progress", "none"
    )
    assert result.exit_code == 0, result.output
    back = {str(read(p).dataset.SOPInstanceUID): p for p in (tmp_path / "back").rglob("*.dcm")}
    for name in SOURCES:
        path = export / f"{name}.dcm"
        found = back[str(read(path).dataset.SOPInstanceUID)]
        assert np.array_equal(stored_values(read(found)), stored_values(read(path)))
        assert name in PACKED or found.read_bytes() == path.read_bytes()


def test_volume_extent_takes_each_volume_of_a_file_as_a_whole(export, tmp_path):
    source = tmp_path / "one"
    source.mkdir()
    (source / "a.dcm").write_bytes((export / "enhanced.dcm").read_bytes())
    result = run(
        "protect", source, "-o", tmp_path / "out", "--method", "random", "--extent", "volume",
        "--progress", "none", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["series"][0]["extent"] == "volume"


@pytest.mark.parametrize("name", SOURCES)
def test_monai_writes_the_same_pixels_as_the_batch(export, shared_export, tmp_path, name):
    path = export / f"{name}.dcm"
    uid = str(read(path).dataset.SOPInstanceUID)
    protector = Protector(plan=ProtectionPlan(method="random"))
    image = SALM(protector)(LoadVolume(allow_irregular=True)(path))
    save = SaveVolume(tmp_path, created=datetime(2026, 1, 2, tzinfo=UTC))
    save(image, name="out")
    (written,) = (tmp_path / "out").glob("*.dcm")
    (batch,) = [p for p in shared_export.rglob("*.dcm") if uid.encode() in bytes_of(p)]
    assert np.array_equal(stored_values(read(written)), stored_values(read(batch)))


def bytes_of(path: Path) -> bytes:
    return read(path).data


def test_a_colour_image_that_was_flipped_is_refused_with_the_remedy(export):
    from monai.transforms import Flip

    from salm_dicom.errors import MismatchError

    image = LoadVolume()(export / "rgb.dcm")
    with pytest.raises(MismatchError, match="directly after LoadVolume"):
        SALM(Protector(plan=ProtectionPlan(method="random")))(Flip(0)(image))
