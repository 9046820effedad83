"""Stored values: the same as pydicom's, and exact through every encoder, bits and padding kept."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from struct import pack

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from salm_dicom.dicom import decode as decode_module
from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.derive import derived
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import padding, stored_values
from salm_dicom.errors import DecodeError, InputError
from tests.synthetic import SeriesRecipe, stored_slices, write_ct_series, write_series
from tests.unit.derivations import DERIVATION, derive, edited

COMPRESSED = [RLELossless, JPEGLSLossless, JPEG2000Lossless]
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, *COMPRESSED]
PIXEL_DATA = 0x7FE00010


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("columns", [32, 33])
def test_eight_bits_come_back_as_they_were_written(tmp_path, syntax, signed, columns):
    recipe = SeriesRecipe(
        slices=1, rows=33, columns=columns, bits_stored=8, signed=signed, slope=8.0,
        intercept=0.0 if signed else -1024.0, transfer_syntax=syntax,
    )  # fmt: skip
    file = read(write_series(tmp_path, recipe)[0])
    before = stored_values(file)
    assert np.array_equal(before, next(stored_slices(recipe)))
    rng = np.random.default_rng(1)
    after = rng.integers(*((-128, 128) if signed else (0, 256)), before.shape).astype(before.dtype)
    target = parse(derived(file, after, DERIVATION))
    assert target.transfer_syntax == syntax
    assert np.array_equal(stored_values(target), after)
    assert np.array_equal(pixel_array(BytesIO(target.data), raw=True), after)


@pytest.mark.parametrize("syntax", [*SYNTAXES, ExplicitVRBigEndian], ids=lambda s: s.name)
@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_every_value_that_bits_stored_can_hold_is_written_exactly(tmp_path, syntax, bits, signed):
    recipe = SeriesRecipe(
        slices=1, rows=32, columns=32, bits_stored=bits, signed=signed, transfer_syntax=syntax
    )
    file = read(write_series(tmp_path, recipe)[0])
    before = stored_values(file)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
    after = np.random.default_rng(bits).integers(low, high, before.shape).astype(before.dtype)
    after[0, :2] = low, high - 1
    target = parse(derived(file, after, DERIVATION))
    assert np.array_equal(stored_values(target), after)
    assert np.array_equal(pixel_array(BytesIO(target.data), raw=True), after)


@pytest.mark.parametrize("order", "<>")
def test_an_old_overlay_above_the_sign_stays_where_it_is(tmp_path, order):
    syntax = ExplicitVRLittleEndian if order == "<" else ExplicitVRBigEndian
    recipe = {"slices": 1, "rows": 32, "columns": 32, "bits_stored": 12, "signed": True}
    (path,) = write_ct_series(tmp_path, transfer_syntax=syntax, **recipe)
    source = read(path)
    words = np.frombuffer(source.value(PIXEL_DATA), f"{order}u2").copy()
    words[::3] ^= 0xA000
    source = edited(source.data, {PIXEL_DATA: ("OW", words.tobytes())})
    values = stored_values(source)
    assert values.min() >= -2048
    after = parse(derived(source, np.where(values < 2047, values + 1, values), DERIVATION))
    found = np.frombuffer(after.value(PIXEL_DATA), f"{order}u2")
    overlay = slice(None, None, 3)
    assert np.array_equal(found[overlay] & 0xF000, words[overlay] & 0xF000)
    assert np.array_equal(stored_values(after), np.where(values < 2047, values + 1, values))


def test_a_value_that_changes_its_sign_keeps_a_sign_extension(tmp_path):
    recipe = {"slices": 1, "rows": 32, "columns": 32, "bits_stored": 12, "signed": True}
    source = read(write_ct_series(tmp_path, **recipe)[0])
    values = -1 - np.zeros((32, 32), np.int16)
    source = edited(source.data, {PIXEL_DATA: ("OW", values.tobytes())})
    after = parse(derived(source, values + 1, DERIVATION))
    assert after.value(PIXEL_DATA) == b"\0" * 2048


@pytest.mark.parametrize("extra", [b"\0\0", b"after the image!", b"\xff" * 100])
def test_what_follows_the_pixels_inside_the_pixel_data_is_kept(tmp_path, extra):
    source = read(write_ct_series(tmp_path, slices=1, rows=32, columns=32)[0])
    data = source.value(PIXEL_DATA) + extra
    target = derive(edited(source.data, {PIXEL_DATA: ("OW", data)}))
    assert len(target.value(PIXEL_DATA)) == len(data)
    assert target.value(PIXEL_DATA).endswith(extra)


def test_elements_after_the_pixel_data_are_kept(tmp_path):
    source = read(write_ct_series(tmp_path, slices=1, rows=32, columns=32)[0])
    source = edited(source.data, {0xFFFCFFFC: ("OB", b"trailing")})
    assert derive(source).value(0xFFFCFFFC) == b"trailing"


def test_monochrome1_is_not_inverted(tmp_path):
    recipe = SeriesRecipe(slices=1, rows=32, columns=32, photometric="MONOCHROME1")
    (path,) = write_series(tmp_path, recipe)
    assert np.array_equal(stored_values(read(path)), next(stored_slices(recipe)))


@pytest.mark.parametrize(
    ("signed", "changes", "expected"),
    [
        (True, {0x00280120: ("SS", pack("<h", -2000))}, (-2000, -2000)),
        (True, {0x00280120: ("US", pack("<H", 0x8000))}, (-32768, -32768)),
        (False, {0x00280120: ("SS", pack("<h", -1))}, (65535, 65535)),
        (
            True,
            {0x00280120: ("SS", pack("<h", -2000)), 0x00280121: ("SS", pack("<h", -1500))},
            (-2000, -1500),
        ),
        (
            False,
            {0x00280120: ("US", pack("<H", 65535)), 0x00280121: ("US", pack("<H", 65000))},
            (65000, 65535),
        ),
        (True, {0x00280120: ("SS", b"")}, None),
        (True, {0x00280121: ("SS", pack("<h", 7))}, None),
    ],
)
def test_padding_is_read_in_the_sign_of_the_pixels(tmp_path, signed, changes, expected):
    recipe = {"slices": 1, "rows": 32, "columns": 32, "signed": signed}
    source = read(write_ct_series(tmp_path, **recipe)[0])
    assert padding(edited(source.data, changes)) == expected


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda s: s.name)
@pytest.mark.parametrize("fault", ["cut", "noise", "tiny"])
def test_a_corrupt_fragment_is_a_decode_error(tmp_path, syntax, fault):
    (path,) = write_ct_series(tmp_path, slices=1, rows=64, columns=64, transfer_syntax=syntax)
    dataset = pydicom.dcmread(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    noise = np.random.default_rng(0).bytes(len(frame) // 4 * 2)
    broken = {"cut": frame[: len(frame) // 4 * 2], "noise": noise, "tiny": b"\0\0"}[fault]
    dataset.PixelData = encapsulate([broken], has_bot=False)
    dataset.save_as(path)
    with pytest.raises(DecodeError):
        stored_values(read(path))


@pytest.mark.parametrize("high_bit", [7, 13, 15])
def test_an_image_whose_high_bit_is_not_its_last_stored_bit_is_not_misread(tmp_path, high_bit):
    recipe = {"slices": 1, "rows": 32, "columns": 32, "bits_stored": 12, "signed": False}
    (path,) = write_ct_series(tmp_path, **recipe)
    path.write_bytes(edited(path.read_bytes(), {0x00280102: ("US", pack("<H", high_bit))}).data)
    with pytest.raises(InputError):
        image_header(path)


@pytest.mark.programs
def test_a_source_whose_syntax_has_no_encoder_is_written_uncompressed(tmp_path):
    (path,) = write_ct_series(tmp_path, slices=1, signed=False)
    lossless = tmp_path / "lossless.dcm"
    gdcmconv = shutil.which("gdcmconv")
    assert gdcmconv
    subprocess.run([gdcmconv, "--jpeg", path, lossless], check=True)
    source = read(lossless)
    assert source.transfer_syntax == JPEGLosslessSV1
    target = derive(source)
    assert target.transfer_syntax == ExplicitVRLittleEndian
    values = stored_values(read(path))
    delta = stored_values(target).astype(int) - values
    assert np.argwhere(delta).tolist() == [[32, 32]]


def test_stored_values_do_not_depend_on_how_the_words_are_ordered(tmp_path):
    recipe = SeriesRecipe(slices=1, rows=32, columns=32)
    little = read(write_series(tmp_path / "le", recipe)[0])
    big = read(
        write_series(tmp_path / "be", replace(recipe, transfer_syntax=ExplicitVRBigEndian))[0]
    )
    assert np.array_equal(stored_values(little), stored_values(big))
    assert stored_values(big).dtype.isnative


class Panic(BaseException):
    """What a decoder written in Rust raises: no `Exception`."""


@pytest.mark.parametrize(
    ("raised", "becomes"), [(Panic, DecodeError), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_a_decoder_that_panics_costs_its_file_and_an_interrupt_goes_through(
    tmp_path, monkeypatch, raised, becomes
):
    path = write_ct_series(tmp_path, slices=1, transfer_syntax=RLELossless)[0]

    def panic(*_args: object, **_settings: object) -> None:
        raise raised

    monkeypatch.setattr(decode_module, "iter_pixels", panic)
    with pytest.raises(becomes):
        stored_values(read(path))
