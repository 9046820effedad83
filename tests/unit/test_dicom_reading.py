"""Reading DICOM: elements, pixels, geometry and the code of everything that is left out."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataelem import RawDataElement
from pydicom.pixels import pixel_array
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
)

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.encode import encode
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.scan import scan
from salm_dicom.errors import InputError
from tests.synthetic import SYNTAXES, SeriesRecipe, stored_slices, write_ct_series, write_series

# In pydicom's wheel; its own look-up function would download more.
PYDICOM_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))


def element_values(path: Path) -> dict[int, bytes | None]:
    """Return what pydicom finds; None for sequences that it parses at once."""
    dataset = pydicom.dcmread(path)
    found = {}
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        is_raw = isinstance(element, RawDataElement)
        found[int(tag)] = (element.value or b"") if is_raw else None
    return found


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda p: p.name)
def test_elements_are_where_pydicom_finds_them_or_the_file_has_a_code(path):
    try:
        file = read(path)
    except InputError:
        return
    expected = element_values(path)
    assert {span.tag for span in file.spans} == set(expected)
    for tag, value in expected.items():
        assert value is None or file.value(tag) == value, hex(tag)
    pieces = [file.data[span.start : span.stop] for span in file.spans]
    assert b"".join(pieces) == file.data[file.spans[0].start :]


def luminance_of(samples: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Return Y of pydicom's samples: as it is in YBR, else from RGB with the weights of DICOM."""
    if dataset.PhotometricInterpretation.startswith("YBR_FULL"):
        return samples[..., 0]
    return np.floor(samples @ np.array([0.299, 0.587, 0.114]) + 0.5 + 1e-9)


@pytest.mark.parametrize("path", PYDICOM_FILES, ids=lambda p: p.name)
def test_stored_values_are_pydicom_s_raw_ones_or_the_file_has_a_code(path):
    try:
        image_header(path)
        values = stored_values(read(path))
    except InputError:
        return
    dataset = pydicom.dcmread(path)
    expected = pixel_array(dataset, raw=True)
    if dataset.SamplesPerPixel == 3:
        assert np.array_equal(values, luminance_of(expected, dataset))
        return
    assert values.dtype == expected.dtype.newbyteorder("=")
    assert np.array_equal(values, expected)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("signed", [True, False])
def test_encoding_and_decoding_give_the_same_values(tmp_path, syntax, bits, signed):
    recipe = SeriesRecipe(
        slices=1, bits_stored=bits, signed=signed, transfer_syntax=syntax, intercept=-1100.0
    )
    file = read(write_series(tmp_path, recipe)[0])
    before = stored_values(file)
    assert np.array_equal(before, next(stored_slices(recipe)))
    after = before + 1
    kept, data, encapsulated = encode(file, after)
    assert kept == syntax
    span = next(s for s in file.spans if s.tag == 0x7FE00010)
    size = (
        b"" if encapsulated else len(data).to_bytes(4, "little" if file.is_little_endian else "big")
    )
    head = file.data[: span.value - len(size)] + size
    again = parse(head + data + file.data[span.value_stop :])
    assert np.array_equal(stored_values(again), after)


def test_bits_above_bits_stored_keep_an_old_overlay(tmp_path):
    path = write_ct_series(tmp_path, slices=1, bits_stored=12, signed=False)[0]
    dataset = pydicom.dcmread(path)
    words = np.frombuffer(dataset.PixelData, "<u2").copy()
    words[::3] |= 0xA000
    dataset.PixelData = words.tobytes()
    dataset.save_as(path)
    file = read(path)
    values = stored_values(file)
    assert values.max() < 4096
    _, data, _ = encode(file, values ^ 1)
    assert np.array_equal(np.frombuffer(data, "<u2"), words ^ 1)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    return write_ct_series(folder, slices=1, rows=32, columns=32, icon=True)[0].read_bytes()


def read_fully(data: bytes) -> None:
    stored_values(parse(data))


def test_a_file_cut_anywhere_gets_a_code(good):
    for size in range(0, len(good) - 1, 53):
        with pytest.raises(InputError):
            read_fully(good[:size])


@settings(max_examples=300)
@given(place=st.integers(0, 3000), value=st.binary(min_size=1, max_size=4))
def test_a_file_with_changed_bytes_is_read_or_gets_a_code(good, place, value):
    data = bytearray(good)
    data[place : place + len(value)] = value
    with contextlib.suppress(InputError):
        read_fully(bytes(data))


def spoiled(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path, enforce_file_format=False)


SPOILS = {
    "E_MISSING_TAG": lambda d: delattr(d, "BitsStored"),
    "E_BAD_UID": lambda d: setattr(d, "SOPInstanceUID", "../../etc/passwd"),
    "E_BAD_VALUE": lambda d: setattr(d, "PixelSpacing", [0, 0.5]),
    "E_UNSUPPORTED_PIXELS": lambda d: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"),
    "E_RESCALE": lambda d: setattr(d, "ModalityLUTSequence", [pydicom.Dataset()]),
    "E_QUANTITATIVE": lambda d: setattr(d, "Units", "BQML"),
    "E_TRANSFER_SYNTAX": lambda d: setattr(d.file_meta, "TransferSyntaxUID", "1.2.3.4"),
}


@pytest.mark.parametrize("code", SPOILS)
def test_a_spoiled_instance_is_listed_with_its_code_and_the_rest_is_found(tmp_path, code):
    write_ct_series(tmp_path / "good", seed=1)
    path = write_ct_series(tmp_path / "bad", slices=1, seed=2)[0]
    spoiled(path, SPOILS[code])
    found = scan(tmp_path)
    assert [(e.path, e.code) for e in found.left_out] == [(path, code)]
    assert [len(series.paths) for series in found.series] == [3]


def test_what_is_no_regular_file_or_no_image_is_listed(tmp_path):
    path = write_ct_series(tmp_path / "a", slices=1)[0]
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.save_as(tmp_path / "enhanced")
    for name in [e for e in dataset.dir() if e.startswith(("Rows", "Columns", "Pixel", "Bits"))]:
        delattr(dataset, name)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
        "1.2.840.10008.5.1.4.1.1.88.11"
    )
    dataset.save_as(tmp_path / "report")
    everything = scan(tmp_path)
    assert [(one.path.name, one.kind) for one in everything.objects] == [("report", "report")]
    found = {e.path.name: e.code for e in everything.left_out}
    assert found == {
        "fifo": "E_NOT_REGULAR", "loop": "E_NOT_REGULAR", "broken": "E_NOT_REGULAR",
        "enhanced": "E_MISSING_TAG",
    }  # fmt: skip


def test_two_files_with_one_uid_and_different_content_are_both_left_out(tmp_path):
    first, second, *_ = write_ct_series(tmp_path, slices=3)
    spoiled(second, lambda d: setattr(d, "SOPInstanceUID", pydicom.dcmread(first).SOPInstanceUID))
    found = scan(tmp_path)
    assert {e.path: e.code for e in found.left_out} == dict.fromkeys(
        (first, second), "E_DUPLICATE_UID"
    )


def test_slices_are_ordered_by_position_whatever_files_and_numbers_say(tmp_path):
    paths = write_ct_series(tmp_path, slices=5)
    for number, path in enumerate(reversed(paths)):
        spoiled(path, lambda d, n=number: setattr(d, "InstanceNumber", n))
    paths[0].rename(tmp_path / "z.dcm")
    (series,) = scan(tmp_path).series
    heights = [h.position[2] for h in series.headers]
    assert heights == sorted(heights)
    assert series.stack.irregular == ""


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"slices": 4, "gaps_mm": (2.0, 2.0, 4.0)}, "2 to 4 mm apart"),
        ({"slices": 3, "direction": (0.0, 0.3, 0.95)}, "gantry tilt of 17.5 degrees"),
    ],
)
def test_a_stack_that_is_no_volume_says_why(tmp_path, recipe, reason):
    write_ct_series(tmp_path, **recipe)
    (series,) = scan(tmp_path).series
    assert reason in series.stack.irregular


def test_echoes_and_time_points_of_one_series_are_volumes_of_their_own(tmp_path):
    for echo in (1, 2):
        for path in write_ct_series(tmp_path / f"echo{echo}", seed=echo, modality="MR"):
            spoiled(path, lambda d, e=echo: (join(d), setattr(d, "EchoTime", 3 * e)))
    assert [len(series.paths) for series in scan(tmp_path).series] == [3, 3]
    for seed, folder in enumerate(("early", "late")):
        write_ct_series(tmp_path / "time" / folder, seed=5 + seed)
    for number, path in enumerate(sorted((tmp_path / "time").rglob("*.dcm"))):
        spoiled(path, lambda d, n=number: (join(d), setattr(d, "InstanceNumber", n)))
    found = scan(tmp_path / "time").series
    assert [len(series.paths) for series in found] == [3, 3]
    assert {p.parent.name for p in found[0].paths} == {"early"}
    assert all(h.sop_class == CTImageStorage for series in found for h in series.headers)


def join(dataset: pydicom.Dataset) -> None:
    """Make the instance part of one series and frame of reference."""
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.FrameOfReferenceUID = "1.2.3.5"
