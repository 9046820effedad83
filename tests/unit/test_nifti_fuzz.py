"""Bytes of strangers: a broken NIfTI file or sidecar is a code, never a crash, never gigabytes."""

from __future__ import annotations

import gzip

import nibabel as nib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom.errors import InputError
from salm_dicom.nifti.image import parse
from salm_dicom.nifti.series import read_nifti
from tests.nifti_files import write_nifti_file

PLACES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    return write_nifti_file(tmp_path_factory.mktemp("whole") / "a.nii").read_bytes()


@given(places=PLACES, is_gzip=st.booleans(), version=st.sampled_from([1, 2]))
@settings(max_examples=300)
def test_a_header_with_any_bytes_is_read_or_left_out(
    whole, tmp_path_factory, places, is_gzip, version
):
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"fuzz{version}.nii"
    if not path.exists():
        write_nifti_file(path, version=version)
        path.with_suffix(".base").write_bytes(path.read_bytes())
    data = bytearray(path.with_suffix(".base").read_bytes())
    for place, value in places:
        data[place] = value
    path.write_bytes(gzip.compress(bytes(data), 1) if is_gzip else bytes(data))
    try:
        series = read_nifti(path, "CT")
    except InputError:
        return
    assert all(volume.pixels.values.size for volume in series.volumes)


@given(cut=st.integers(0, 5000), is_gzip=st.booleans())
@settings(max_examples=100)
def test_a_file_that_is_cut_anywhere_is_left_out(whole, cut, is_gzip):
    data = gzip.compress(whole, 1) if is_gzip else whole
    with pytest.raises(InputError):
        parse(data[: min(cut, len(data) - 1)])


def test_a_bomb_stops_at_the_size_that_its_header_declares(whole):
    header = nib.Nifti1Header(whole[:348])
    bomb = gzip.compress(header.binaryblock + bytes(300 << 20), 1)
    with pytest.raises(InputError, match="goes on long after"):
        parse(bomb)
