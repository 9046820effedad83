"""Deflated data sets: read, written, and refused when they are bombs."""

from __future__ import annotations

import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian

from salm_dicom.dicom.deflate import inflated
from salm_dicom.dicom.part10 import parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.restore import keep, restored
from salm_dicom.dicom.scan import scan
from tests.synthetic_frames import ColourRecipe, colour_samples, write_colour
from tests.unit.derivations import derive

DEFLATED = ColourRecipe(
    photometric="MONOCHROME2", transfer_syntax=DeflatedExplicitVRLittleEndian, rows=64, columns=64
)


def test_a_deflated_image_is_read_and_written_deflated(tmp_path):
    path = write_colour(tmp_path / "a.dcm", DEFLATED)
    source = read(path)
    assert np.array_equal(stored_values(source), colour_samples(DEFLATED)[0])
    target = derive(source)
    assert target.transfer_syntax == DeflatedExplicitVRLittleEndian
    assert len(target.deflated) % 2 == 0
    dataset = pydicom.dcmread(BytesIO(target.deflated))
    assert dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian
    change = pixel_array(dataset).astype(int) - colour_samples(DEFLATED)[0]
    assert np.argwhere(change).tolist() == [[32, 32]]


def test_the_digest_of_a_deflated_file_is_that_of_its_bytes_on_disk(tmp_path):
    path = write_colour(tmp_path / "a.dcm", DEFLATED)
    assert read(path).sha256 == parse(path.read_bytes()).sha256
    again = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert again.stdout.split()[0] == read(path).sha256


def test_restoring_a_deflated_image_gives_its_values_and_every_attribute_back(tmp_path):
    source = read(write_colour(tmp_path / "a.dcm", DEFLATED))
    target = derive(source)
    change = stored_values(target).astype(np.int16) - stored_values(source)
    data, _ = restored(target, keep(source, change))
    found = parse(data)
    assert found.element_bytes() == source.element_bytes()


def bomb(path: Path) -> Path:
    """Write a file of about 1 MB that inflates to about 1 GB."""
    head = write_colour(path, DEFLATED).read_bytes()
    end = 144 + int.from_bytes(head[140:144], "little")
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(1000)) + deflate.flush()
    path.write_bytes(head[:end] + body)
    return path


def test_a_bomb_is_refused_with_its_code(tmp_path):
    bomb(tmp_path / "a.dcm")
    assert [entry.code for entry in scan(tmp_path).left_out] == ["E_BOMB"]


def test_refusing_a_bomb_takes_under_a_second_and_200_mb(tmp_path):
    bomb(tmp_path / "a.dcm")
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from salm_dicom.dicom.scan import scan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "start = time.process_time()\n"
        "assert scan(Path(sys.argv[1])).left_out[0].code == 'E_BOMB'\n"
        "print(time.process_time() - start)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    seconds, megabytes = run.stdout.split()
    assert float(seconds) < 1
    assert int(megabytes) < 200


@pytest.mark.parametrize("keep_bytes", [400, -20, -1])
def test_deflated_data_that_end_too_early_are_truncated(tmp_path, keep_bytes):
    path = write_colour(tmp_path / "a.dcm", DEFLATED)
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:keep_bytes])
    assert [entry.code for entry in scan(tmp_path).left_out] == ["E_TRUNCATED"]


def test_what_cannot_be_inflated_is_a_parse_error(tmp_path):
    path = write_colour(tmp_path / "a.dcm", DEFLATED)
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    path.write_bytes(data[:end] + b"\xff" * 500)
    assert [entry.code for entry in scan(tmp_path).left_out] == ["E_PARSE"]


def test_a_file_that_is_not_deflated_is_the_same_object():
    data = bytes(200)
    assert inflated(data) is data
