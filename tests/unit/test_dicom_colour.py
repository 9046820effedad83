"""Colour: one integer for each pixel, added so that only luminance changes; regions; big endian."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import convert_color_space, pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.derive import derived
from salm_dicom.dicom.encode import is_exactly
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import PIXEL_DATA, room, stored_values
from salm_dicom.dicom.restore import keep, restored
from salm_dicom.dicom.samples import DECODED
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import InputError, MismatchError
from salm_dicom.foreground import foreground
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from tests.synthetic_frames import ColourRecipe, colour_samples, write_colour
from tests.unit.derivations import DERIVATION, edited

RAW = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
CASES = [
    *(ColourRecipe(photometric=p, transfer_syntax=s) for p in ("RGB", "YBR_FULL") for s in RAW),
    *(ColourRecipe(photometric=p, planar=1) for p in ("RGB", "YBR_FULL")),
    *(ColourRecipe(photometric="YBR_FULL_422", transfer_syntax=s) for s in RAW),
    ColourRecipe(photometric="RGB", planar=1, frames=3),
    ColourRecipe(photometric="YBR_FULL_422", frames=2),
    ColourRecipe(photometric="RGB", bits=16),
    ColourRecipe(photometric="RGB", bits=16, transfer_syntax=ExplicitVRBigEndian),
    *(
        ColourRecipe(photometric=p, frames=n, transfer_syntax=s)
        for p in ("RGB", "YBR_FULL", "MONOCHROME2")
        for n in (1, 3)
        for s in (RLELossless, JPEGLSLossless)
    ),
    ColourRecipe(photometric="MONOCHROME2", frames=3),
    ColourRecipe(photometric="MONOCHROME2", frames=3, transfer_syntax=ExplicitVRBigEndian, vr="OW"),
    ColourRecipe(photometric="RGB", columns=41, transfer_syntax=ExplicitVRBigEndian, vr="OW"),
]


def case_name(recipe: ColourRecipe) -> str:
    name = pydicom.uid.UID(recipe.transfer_syntax).name.replace(" ", "-")
    return f"{recipe.photometric}-{recipe.planar}-{recipe.frames}-{recipe.bits}-{name}"


def change_for(values: np.ndarray) -> np.ndarray:
    """Return +3 and -3 in the middle of the disc."""
    change = np.zeros(values.shape, np.int16)
    middle = (..., slice(12, 20), slice(12, 20))
    change[middle] = np.random.default_rng(3).choice([-3, 3], change[middle].shape)
    return change


@pytest.mark.parametrize("recipe", CASES, ids=case_name)
def test_one_integer_is_added_to_what_makes_luminance_and_nothing_else_changes(tmp_path, recipe):
    path = write_colour(tmp_path / "a.dcm", recipe)
    source = read(image_header(path).path)
    samples = colour_samples(recipe)
    before = stored_values(source)
    change = change_for(before)
    protected = parse(derived(source, (before + change).astype(before.dtype), DERIVATION))
    assert np.array_equal(stored_values(protected), before + change)
    assert protected.transfer_syntax == source.transfer_syntax
    dataset = pydicom.dcmread(BytesIO(protected.data))
    found = pixel_array(dataset, raw=True).reshape(samples.shape).astype(int)
    wanted = samples.astype(int)
    change = change.reshape(samples.shape[:3])
    if recipe.photometric == "RGB":
        wanted += change[..., None]
    elif recipe.photometric.startswith("YBR"):
        wanted[..., 0] += change
    else:
        wanted += change
    assert np.array_equal(found, wanted)
    assert int(dataset.get("NumberOfFrames", 1)) == recipe.frames
    assert is_exactly(protected, source, change)


@pytest.mark.parametrize("recipe", CASES, ids=case_name)
def test_restoring_colour_gives_the_source_back(tmp_path, recipe):
    source = read(write_colour(tmp_path / "a.dcm", recipe))
    before = stored_values(source)
    change = change_for(before)
    protected = parse(derived(source, (before + change).astype(before.dtype), DERIVATION))
    data, is_source = restored(protected, keep(source, change))
    assert is_source or source.transfer_syntax.is_encapsulated
    assert is_exactly(parse(data), source, np.zeros(before.shape, int))


def test_an_rgb_step_moves_y_by_itself_and_leaves_cb_and_cr():
    rng = np.random.default_rng(0)
    rgb = rng.integers(8, 248, (20, 20, 3)).astype(np.uint8)
    before = convert_color_space(rgb, "RGB", "YBR_FULL").astype(int)
    after = convert_color_space(rgb + np.uint8(5), "RGB", "YBR_FULL").astype(int)
    assert (after - before == [5, 0, 0]).all()


def test_room_is_what_the_fullest_channel_of_rgb_has_left(tmp_path):
    recipe = ColourRecipe(photometric="RGB", planar=1)
    samples = colour_samples(recipe)[0].astype(int)
    found = room(read(write_colour(tmp_path / "a.dcm", recipe)))
    wanted = np.minimum(samples.min(-1), 255 - samples.max(-1))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "MONOCHROME2"])
def test_outside_the_regions_of_an_ultrasound_image_nothing_changes(tmp_path, photometric):
    regions = ((4, 6, 17, 20), (22, 10, 99, 30))
    recipe = ColourRecipe(photometric=photometric, regions=regions, rows=40, columns=40)
    series = read_series([write_colour(tmp_path / "a.dcm", recipe)])
    inside = np.zeros((40, 40), bool)
    inside[6:21, 4:18] = inside[10:31, 22:40] = True
    assert not foreground(series.volume.pixels, "US")[0][~inside].any()
    assert not series.volume.pixels.room[0][~inside].any()
    found = Protector(plan=ProtectionPlan(method="random")).apply(series.volume, series_uid="1")
    assert found.delta.any()
    assert not found.delta[0][~inside].any()
    with pytest.raises(MismatchError):
        series.volume.pixels.shifted((~inside)[None].astype(np.int16))


def test_no_channel_of_a_protected_rgb_image_leaves_its_range(tmp_path):
    recipe = ColourRecipe(photometric="RGB", rows=64, columns=64)
    path = write_colour(tmp_path / "a.dcm", recipe)
    dataset = pydicom.dcmread(path)
    samples = np.frombuffer(dataset.PixelData, np.uint8).copy().reshape(64, 64, 3)
    samples[:, 20:32, 1] = 254
    samples[:, 32:44, 2] = 1
    dataset.PixelData = samples.tobytes()
    dataset.save_as(path)
    volume = read_series([path]).volume
    found = Protector(plan=ProtectionPlan(method="random", rho=1.0)).apply(volume, series_uid="1")
    assert found.record.budget_stored == 4
    after = samples.astype(int) + found.delta[0][..., None]
    assert after.min() >= 0
    assert after.max() <= 255
    assert not found.delta[0][:, 20:44].any()
    assert found.delta.any()


def test_decoded_ybr_becomes_rle_and_says_how_it_lies(tmp_path):
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "examples_ybr_color.dcm"
    source = read(image_header(path).path)
    before = stored_values(source)
    change = np.zeros(before.shape, np.int16)
    change[:, 100, 100] = 2
    after = before + change.astype(before.dtype)
    target = parse(derived(source, after, DERIVATION))
    dataset = pydicom.dcmread(BytesIO(target.data))
    assert target.transfer_syntax == RLELossless
    assert (dataset.PhotometricInterpretation, dataset.PlanarConfiguration) == ("YBR_FULL", 1)
    assert dataset.NumberOfFrames == 30
    found = pixel_array(dataset, raw=True).astype(int)
    assert np.array_equal(found[..., 0], after)
    assert np.array_equal(found[..., 1:], pixel_array(pydicom.dcmread(path), raw=True)[..., 1:])
    data, is_source = restored(target, keep(source, change))
    assert not is_source
    assert np.array_equal(stored_values(parse(data)), before)


@pytest.mark.parametrize(
    ("code", "recipe", "changes"),
    [
        ("E_UNSUPPORTED_PIXELS", ColourRecipe(), {0x00280004: ("CS", b"PALETTE COLOR ")}),
        ("E_UNSUPPORTED_PIXELS", ColourRecipe(), {0x00280004: ("CS", b"CMYK")}),
        ("E_UNSUPPORTED_PIXELS", ColourRecipe(), {0x00280004: ("CS", b"YBR_RCT ")}),
        ("E_UNSUPPORTED_PIXELS", ColourRecipe(), {0x00280002: ("US", b"\4\0")}),
        ("E_UNSUPPORTED_PIXELS", ColourRecipe(), {0x00280103: ("US", b"\1\0")}),
        ("E_BAD_VALUE", ColourRecipe(), {0x00280004: ("CS", b"MONOCHROME2 ")}),
        ("E_BAD_VALUE", ColourRecipe(), {0x00280006: ("US", b"\2\0")}),
        ("E_MISSING_TAG", ColourRecipe(), {0x00280006: None}),
        (
            "E_BAD_VALUE",
            ColourRecipe(photometric="YBR_FULL_422"),
            {0x00280011: ("US", b"\x27\0")},
        ),
        (
            "E_UNSUPPORTED_PIXELS",
            ColourRecipe(photometric="MONOCHROME2"),
            {0x00287FE0: ("UR", b"http://example.org"), PIXEL_DATA: None},
        ),
        (
            "E_UNSUPPORTED_PIXELS",
            ColourRecipe(photometric="MONOCHROME2"),
            {0x7FE00008: ("OF", bytes(4 * 33 * 40)), PIXEL_DATA: None},
        ),
        (
            "E_BAD_VALUE",
            ColourRecipe(photometric="MONOCHROME2"),
            {0x00281053: ("DS", b"0 "), 0x00281052: ("DS", b"0 ")},
        ),
        ("E_BAD_VALUE", ColourRecipe(photometric="MONOCHROME2"), {0x00281053: ("DS", b"abc ")}),
        ("E_BAD_VALUE", ColourRecipe(photometric="MONOCHROME2"), {0x00281052: ("DS", b"nan ")}),
        ("E_BAD_VALUE", ColourRecipe(frames=2), {0x00280008: ("IS", b"-2")}),
        ("E_TRUNCATED", ColourRecipe(frames=2), {0x00280008: ("IS", b"99999 ")}),
        ("E_TOO_LARGE", ColourRecipe(frames=2), {0x00280008: ("IS", b"2000000000")}),
    ],
)
def test_scan_lists_what_protect_would_refuse(tmp_path, code, recipe, changes):
    path = write_colour(tmp_path / "a.dcm", recipe)
    path.write_bytes(edited(path.read_bytes(), changes).data)
    found = scan(tmp_path)
    assert [entry.code for entry in found.left_out] == [code]
    with pytest.raises(InputError):
        read_series([path])


def test_every_colour_model_that_is_read_has_a_model_it_is_written_in():
    assert set(DECODED.values()) <= set(DECODED)


def test_a_secondary_capture_of_several_frames_has_no_geometry_and_is_one_stack(tmp_path):
    recipe = ColourRecipe(
        photometric="MONOCHROME2", frames=4, modality="OT", sop_class=SecondaryCaptureImageStorage
    )
    volume = read_series([write_colour(tmp_path / "a.dcm", recipe)]).volume
    assert volume.pixels.values.shape == (4, 33, 40)
    assert volume.irregular
    assert not volume.parts
