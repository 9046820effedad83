"""Every geometry and pixel case, made in code: what `scan --json` says of it, volume by volume."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner
from pydicom.uid import EnhancedMRImageStorage

from salm_dicom.cli.main import main
from tests.synthetic import SeriesRecipe, uid, write_series
from tests.synthetic_frames import (
    ColourRecipe,
    EnhancedRecipe,
    stack,
    write_colour,
    write_enhanced,
)

_NUMBER = count()
CORONAL, SAGITTAL = (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1)
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, -0.8)
CT = SeriesRecipe(slices=4, rows=32, columns=32)
MR = replace(CT, modality="MR")
# Slices, and what geometry is said to be, of each volume; a text ending in ... may go on.
Volumes = list[tuple[int, str]]


def series(recipe: SeriesRecipe = CT, spoil: Callable[[int, pydicom.Dataset], None] | None = None):
    """Return a function that writes a series, each instance spoiled."""

    def write(folder: Path) -> None:
        for index, path in enumerate(write_series(folder, recipe)):
            if spoil:
                dataset = pydicom.dcmread(path)
                spoil(index, dataset)
                dataset.save_as(path)

    return write


def several(*writers: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number, one in enumerate(writers):
            one(folder / str(number))

    return write


def given(**values: object) -> Callable[[int, pydicom.Dataset], None]:
    """Return a change that gives each instance these values; functions are given its index."""
    number = next(_NUMBER)

    def spoil(index: int, dataset: pydicom.Dataset) -> None:
        dataset.SOPInstanceUID = uid("scan table", number, index)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        for name, value in values.items():
            setattr(dataset, name, value(index) if callable(value) else value)

    return spoil


def colour(**recipe: object) -> Callable[[Path], None]:
    return lambda folder: write_colour(folder / "one.dcm", ColourRecipe(**recipe))


def enhanced(**recipe: object) -> Callable[[Path], None]:
    return lambda folder: write_enhanced(folder / "one.dcm", EnhancedRecipe(**recipe))


one_series = replace(CT, series_uid="1.2.3.4", study_uid="1.2.3")
one_mr = replace(MR, series_uid="1.2.3.4", study_uid="1.2.3")
CASES: dict[str, tuple[Callable[[Path], None], Volumes, dict[str, int]]] = {
    "axial": (series(), [(4, "regular")], {}),
    "coronal": (series(replace(CT, orientation=CORONAL)), [(4, "regular")], {}),
    "sagittal": (series(replace(CT, orientation=SAGITTAL)), [(4, "regular")], {}),
    "oblique": (series(replace(CT, orientation=OBLIQUE)), [(4, "regular")], {}),
    "single slice": (series(replace(CT, slices=1)), [(1, "regular")], {}),
    "gantry tilt": (
        series(replace(CT, direction=(0, 0.3, 0.95))), [(4, "slices are shifted...")], {}),
    "gap": (series(replace(CT, gaps_mm=(2, 6, 2))), [(4, "slices are 2 to 6 mm apart")], {}),
    "uneven spacing": (
        series(replace(CT, gaps_mm=(2, 2.5, 3))), [(4, "slices are 2 to 3 mm apart")], {}),
    "numbers that are not spatial": (
        series(spoil=given(InstanceNumber=lambda i: (3, 1, 4, 2)[i])), [(4, "regular")], {}),
    "two echoes": (
        several(series(one_mr, given(EchoTime=3)), series(one_mr, given(EchoTime=8))),
        [(4, "regular"), (4, "regular")], {}),
    "times": (
        several(*(series(one_mr, given(TemporalPositionIdentifier=t)) for t in (1, 2, 3))),
        [(4, "regular")] * 3, {}),
    "diffusion": (
        several(*(series(one_mr, given(DiffusionBValue=float(b))) for b in (0, 1000))),
        [(4, "regular")] * 2, {}),
    "magnitude and phase": (
        several(*(series(one_mr, given(ImageType=["ORIGINAL", "PRIMARY", kind])) for kind in "MP")),
        [(4, "regular")] * 2, {}),
    "localizer": (
        several(*(
            series(replace(one_series, slices=1, orientation=turn), given(ImageComments=str(turn)))
            for turn in (CT.orientation, CORONAL, SAGITTAL)
        )), [(1, "regular")] * 3, {}),
    "copies": (several(series(), series()), [(4, "regular")], {"E_DUPLICATE": 4}),
    "two contents under one UID": (
        several(series(one_series), series(replace(one_series, slope=2.0))), [],
        {"E_DUPLICATE_UID": 8}),
    "rescale by slice": (
        series(spoil=given(RescaleSlope=lambda i: f"{1 + i / 4:g}")), [(4, "regular")], {}),
    "unsigned 12 bits": (
        series(replace(CT, signed=False, bits_stored=12)), [(4, "regular")], {}),
    "8 bits": (series(replace(CT, bits_stored=8, slope=8.0)), [(4, "regular")], {}),
    "MONOCHROME1": (series(replace(CT, photometric="MONOCHROME1")), [(4, "regular")], {}),
    "padding": (series(replace(CT, padding=-2000)), [(4, "regular")], {}),
    "palette colour": (
        series(spoil=given(PhotometricInterpretation="PALETTE COLOR")), [],
        {"E_UNSUPPORTED_PIXELS": 4}),
    "slope 0": (series(spoil=given(RescaleSlope="0")), [], {"E_BAD_VALUE": 4}),
    "PET": (series(spoil=given(Modality="PT")), [], {"E_QUANTITATIVE": 4}),
    "RGB": (colour(photometric="RGB"), [(1, "...")], {}),
    "YBR": (colour(photometric="YBR_FULL_422"), [(1, "...")], {}),
    "cine": (colour(photometric="MONOCHROME2", frames=3, modality="XA"), [(3, "multi-frame")], {}),
    "enhanced CT": (enhanced(frames=stack(5)), [(5, "multi-frame")], {}),
    "enhanced MR of two echoes": (
        enhanced(frames=stack(3, echo=1.0) + stack(3, echo=2.0), sop_class=EnhancedMRImageStorage),
        [(6, "multi-frame")], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_scan_says_the_volumes_or_the_code(tmp_path, name):
    write, volumes, codes = CASES[name]
    write(tmp_path / "in")
    done = CliRunner().invoke(main, ["scan", str(tmp_path / "in"), "--json"])
    assert done.exit_code == (4 if not volumes else 3 if codes else 0), done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    found = sorted((r["slices"], r["geometry"]) for r in rows if r["type"] == "series")
    assert len(found) == len(volumes), found
    for (slices, geometry), (wanted, text) in zip(found, sorted(volumes), strict=True):
        assert slices == wanted
        assert geometry == text or (text.endswith("...") and geometry.startswith(text[:-3]))
    summary = next(r for r in rows if r["type"] == "summary")
    assert summary["left_out"] == codes
    listed = [p for r in rows if r["type"] == "series" for p in r["files"]]
    listed += [r["path"] for r in rows if r["type"] == "left_out"]
    assert sorted(listed) == sorted(str(p) for p in (tmp_path / "in").rglob("*") if p.is_file())
