"""The foreground: anatomy with its lungs, and no air, padding, clipped voxels or table."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from salm_dicom.foreground import foreground, outline
from salm_dicom.volume import Booleans, Integers, StoredPixels
from tests.phantom import axes
from tests.unit.volumes import phantom_volume, stored

NOISE_HU = 12.0
SIZES = [(64, 64), (70, 131), (130, 259), (257, 200), (515, 523)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thorax:
    """Hounsfield units, (slices, rows, columns), and what each pixel is, (rows, columns)."""

    values: Integers
    body: Booleans
    lungs: Booleans


def thorax(rows: int = 128, columns: int = 128, *, lungs: bool = True, slices: int = 2) -> Thorax:
    y, x = axes(rows, columns)
    body = (x / 0.8) ** 2 + (y / 0.6) ** 2 <= 1
    air_inside = ((np.abs(x) - 0.35) / 0.2) ** 2 + (y / 0.3) ** 2 <= 1
    air_inside &= lungs
    image = np.where(body, 40.0, -1000.0)
    image[air_inside] = -800
    noise = NOISE_HU * np.random.default_rng(rows).standard_normal((slices, rows, columns))
    return Thorax(values=np.rint(image + noise).astype(np.int16), body=body, lungs=air_inside)


@pytest.mark.parametrize("size", SIZES)
def test_the_body_is_foreground_with_its_lungs_and_the_air_around_it_is_not(size):
    image = thorax(*size)
    mask = foreground(stored(image.values), "CT")
    assert mask.shape == image.values.shape
    assert mask[:, image.body].mean() > 0.98
    assert mask[:, image.lungs].mean() > 0.98
    assert not mask[:, ~image.body].any()


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (17, 16), (31, 33)])
def test_tiny_slices_have_a_foreground_too(size):
    image = thorax(*size, lungs=False)
    mask = foreground(stored(image.values), "CT")
    assert mask[:, image.body].mean() > 0.85
    assert not mask[:, ~image.body].any()


@pytest.mark.parametrize("modality", ["CT", "MR", "DX"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (3, 1, 1), (2, 16, 16)])
@pytest.mark.parametrize("value", [-2000, 0, 40])
def test_a_constant_image_has_no_foreground(value, shape, modality):
    assert not foreground(stored(np.full(shape, value, np.int16)), modality).any()


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_an_image_of_padding_only_has_no_foreground(modality):
    values = np.random.default_rng(0).integers(-2000, -1990, (2, 20, 20)).astype(np.int16)
    assert not foreground(stored(values, padding=(-2000, -1990)), modality).any()


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 1, 1), (1, 2, 1), (1, 3, 100)])
@pytest.mark.parametrize("modality", ["CT", "MR", "DX"])
def test_images_of_a_few_voxels_do_no_harm(modality, shape):
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    mask = foreground(stored(values), modality)
    assert mask.shape == shape
    assert not mask.reshape(-1)[[0, -1]].any()


def test_an_image_that_is_all_anatomy_is_foreground_up_to_its_edges():
    values = np.random.default_rng(0).integers(0, 100, (2, 128, 128)).astype(np.int16)
    assert foreground(stored(values), "CT").mean() > 0.95


def test_all_air_has_no_foreground():
    values = np.random.default_rng(0).integers(-1020, -980, (2, 64, 64)).astype(np.int16)
    assert not foreground(stored(values), "CT").any()


@pytest.mark.parametrize("value", [-3000, -1000, 0, 4000])
@pytest.mark.parametrize("where", ["corners", "frame", "inside the body"])
@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_padding_is_never_foreground_and_does_not_make_air_anatomy(slope, where, value):
    image = thorax()
    y, x = axes(128, 128)
    is_padding = {
        "corners": np.hypot(y, x) > 1,
        "frame": (np.abs(y) > 0.95) | (np.abs(x) > 0.95),
        "inside the body": (np.abs(y) < 0.05) & (np.abs(x) < 0.05),
    }[where]
    values = (image.values / slope).astype(np.int16)
    values[values == value] += 1
    values[:, is_padding] = value
    mask = foreground(stored(values, slope=slope, padding=(value, value)), "CT")
    assert not mask[:, is_padding].any()
    assert not mask[:, ~image.body].any()
    assert mask[:, image.body & ~is_padding].mean() > 0.98


def test_single_padding_values_inside_the_body_are_left_out_voxel_by_voxel():
    volume = phantom_volume(padding=1064)  # 40 HU: soft tissue, in the middle of the range
    mask = foreground(volume.pixels, "CT")
    is_padding = volume.pixels.values == 1064
    assert not (mask & is_padding).any()
    assert mask.mean() > 0.2


def test_clipped_extremes_are_not_foreground():
    image = thorax(lungs=False)
    values = image.values.copy()
    values[:, 60:68, 60:68] = 3071
    values[:, 60:62, 80:82] = -1024
    values = np.clip(values, -1024, 3071)
    mask = foreground(stored(values), "CT")
    assert not mask[:, 60:68, 60:68].any()
    assert not mask[:, 60:62, 80:82].any()
    assert mask[:, image.body].mean() > 0.95


@pytest.mark.parametrize(
    ("rows", "columns"), [(slice(116, 120), slice(10, 118)), (slice(112, 122), slice(20, 30))]
)
def test_a_table_or_a_tube_beside_the_patient_is_left_out(rows, columns):
    image = thorax()
    table = np.zeros(image.body.shape, dtype=bool)
    table[rows, columns] = True
    values = image.values.copy()
    values[:, table] += 1200
    mask = foreground(stored(values), "CT")
    assert not mask[:, table].any()
    assert mask[:, image.body].mean() > 0.98


def test_two_legs_are_both_foreground():
    y, x = axes(128, 128)
    legs = ((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.4) ** 2 <= 1
    noise = np.random.default_rng(0).normal(0, NOISE_HU, (2, 128, 128))
    values = np.rint(np.where(legs, 40, -1000) + noise).astype(np.int16)
    mask = foreground(stored(values), "CT")
    assert mask[:, legs & (x < 0)].mean() > 0.95
    assert mask[:, legs & (x > 0)].mean() > 0.95
    assert not mask[:, ~legs].any()


@pytest.mark.parametrize("slope", [0.5, 2.0, -1.0])
def test_the_mapping_to_hounsfield_units_decides_and_not_the_stored_value(slope):
    image = thorax()
    hounsfield = image.values.astype(np.float64)
    values = np.rint((hounsfield + 1024) / slope).astype(np.int16)
    mask = foreground(stored(values, slope=slope, intercept=-1024.0), "CT")
    assert mask[:, image.body].mean() > 0.98
    assert not mask[:, ~image.body].any()


def test_each_slice_is_split_by_its_own_mapping():
    image = thorax()
    values = image.values.copy()
    values[1] //= 2
    pixels = replace(stored(values), slope=np.array([1.0, 2.0]))
    mask = foreground(pixels, "CT")
    assert mask[:, image.body].mean() > 0.98
    assert not mask[:, ~image.body].any()


def mr_values() -> tuple[Integers, Booleans]:
    image = thorax()
    return (np.abs(image.values.astype(np.int32) + 1000) // 2).astype(np.uint16), image.body


def test_mr_is_split_by_its_own_histogram():
    values, body = mr_values()
    mask = foreground(stored(values), "MR")
    assert mask[:, body].mean() > 0.98
    assert not mask[:, ~body].any()


@pytest.mark.parametrize("padding", [None, (0, 0), (4095, 4095)])
def test_monochrome1_is_split_the_other_way_round(padding):
    values, body = mr_values()
    values = (1000 - values.astype(np.int32)).astype(np.uint16)
    frame = np.zeros(body.shape, dtype=bool)
    if padding is not None:
        frame[:4] = frame[-4:] = frame[:, :4] = frame[:, -4:] = True
        values[:, frame] = padding[0]
    mask = foreground(stored(values, bits_stored=12, padding=padding), "MR", "MONOCHROME1")
    assert mask[:, body].mean() > 0.95
    assert not mask[:, ~body].any()


def test_the_outline_of_a_slice_is_the_foreground_of_that_slice():
    volume = phantom_volume(slices=3, rows=130, columns=140, padding=-2000)
    mask = foreground(volume.pixels, volume.modality)
    found = outline(volume.pixels, volume.modality)
    for index in range(3):
        np.testing.assert_array_equal(found.at(index), mask[index])


def test_the_stored_values_are_not_changed():
    volume = phantom_volume(padding=-2000)
    before = volume.pixels.values.copy()
    foreground(volume.pixels, volume.modality)
    np.testing.assert_array_equal(volume.pixels.values, before)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
def test_of_a_projection_everything_counts_that_is_neither_clipped_nor_padding(modality):
    values = np.random.default_rng(0).integers(0, 4096, (1, 130, 100)).astype(np.uint16)
    mask = foreground(stored(values, bits_stored=12, padding=(7, 9)), modality, "MONOCHROME1")
    wanted = (values > 0) & (values < 4095) & ((values < 7) | (values > 9))
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize("slope", [1e30, 1e37, 1e-300])
@pytest.mark.filterwarnings("ignore:overflow")
def test_values_that_no_float32_tells_apart_are_met_in_silence(capfd, slope):
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1000, (2, 64, 64), dtype=np.int16)
    pixels = StoredPixels(
        values=values, slope=np.full(2, slope), intercept=np.zeros(2), bits_stored=16, signed=True
    )
    assert foreground(pixels, "MR").any() == (slope != 1e37)
    assert capfd.readouterr() == ("", "")


def test_values_that_are_all_the_same_in_float32_give_one_foreground_every_time():
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1000, (2, 64, 64), dtype=np.int16)
    pixels = StoredPixels(
        values=values, slope=np.full(2, 1e-300), intercept=np.zeros(2), bits_stored=16, signed=True
    )
    first = foreground(pixels, "MR")
    assert first.any()
    for _ in range(300):
        # memory that others have written to is where a threshold was once read from
        _ = [rng.random(rng.integers(10, 200_000)) for _ in range(3)]
        np.testing.assert_array_equal(foreground(pixels, "MR"), first)
