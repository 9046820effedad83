"""The scan: every file of an export is in the result exactly once, with a code or in a series."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from struct import pack

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from salm_dicom.dicom.admit import image_header
from salm_dicom.dicom.part10 import parse
from salm_dicom.dicom.scan import Scan, scan
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import InputError, NotImage
from tests.synthetic import write_ct_series
from tests.unit.derivations import edited, write

Spoil = Callable[[Path], object]
CUT = -500


def listed(found: Scan, root: Path) -> list[str]:
    """Return every file that the scan speaks of, series first."""
    inside = [path for series in found.series for path in series.paths]
    return sorted(str(p.relative_to(root)) for p in [*inside, *(e.path for e in found.left_out)])


def element(tag: int, vr: str, value: bytes) -> Spoil:
    return lambda path: path.write_bytes(edited(path.read_bytes(), {tag: (vr, value)}).data)


def without(*tags: int) -> Spoil:
    return lambda p: p.write_bytes(edited(p.read_bytes(), dict.fromkeys(tags)).data)


def cut(size: int) -> Spoil:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def syntax(uid: bytes) -> Spoil:
    """Put another Transfer Syntax UID of the same length into the file meta information."""
    return lambda p: p.write_bytes(p.read_bytes().replace(b"1.2.840.10008.1.2.1\0", uid, 1))


def nested(path: Path) -> None:
    start = pack("<HH2sHLHHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    data = path.read_bytes()
    file = parse(data)
    place = next(span.start for span in file.spans if span.tag > 0x00081140)
    path.write_bytes(data[:place] + start * 20_000 + data[place:])


def compressed_and_cut(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    dataset.save_as(path)
    path.write_bytes(path.read_bytes()[:-200])


SPOILS: list[tuple[str, str, Spoil]] = [
    ("an empty file", "E_EMPTY", lambda p: p.write_bytes(b"")),
    ("a text file", "E_NOT_DICOM", lambda p: p.write_text("key,label\n" * 50)),
    ("a short file", "E_NOT_DICOM", lambda p: p.write_bytes(b"DICM")),
    ("zeros", "E_NOT_DICOM", lambda p: p.write_bytes(bytes(1000))),
    ("a prefix alone", "E_", cut(132)),
    ("half a meta group", "E_", cut(250)),
    ("half a header", "E_", cut(1200)),
    ("half the pixels", "E_TRUNCATED", cut(CUT)),
    ("one byte too few", "E_TRUNCATED", cut(-1)),
    ("a header only", "E_TRUNCATED", without(0x7FE00010)),
    ("too deep a nesting", "E_PARSE", nested),
    ("a link that leads nowhere", "E_NOT_REGULAR", lambda p: (p.unlink(), p.symlink_to("no"))),
    ("a link to itself", "E_NOT_REGULAR", lambda p: (p.unlink(), p.symlink_to(p))),
    ("a fifo", "E_NOT_REGULAR", lambda p: (p.unlink(), os.mkfifo(p))),
    ("no rows", "E_MISSING_TAG", without(0x00280010)),
    ("empty columns", "E_MISSING_TAG", element(0x00280011, "US", b"")),
    ("no pixel representation", "E_MISSING_TAG", without(0x00280103)),
    ("no photometric interpretation", "E_MISSING_TAG", without(0x00280004)),
    ("long rows", "E_BAD_VALUE", element(0x00280010, "UL", pack("<L", 32))),
    ("no bits", "E_BAD_VALUE", element(0x00280101, "US", pack("<H", 0))),
    ("17 bits of 16", "E_BAD_VALUE", element(0x00280101, "US", pack("<H", 17))),
    ("sign 2", "E_BAD_VALUE", element(0x00280103, "US", pack("<H", 2))),
    ("spacing with commas", "E_BAD_VALUE", element(0x00280030, "DS", b"0,5\\0,5 ")),
    ("spacing NaN", "E_BAD_VALUE", element(0x00280030, "DS", b"nan\\nan ")),
    ("negative spacing", "E_BAD_VALUE", element(0x00280030, "DS", b"-1\\-1 ")),
    ("two coordinates", "E_BAD_VALUE", element(0x00200032, "DS", b"1\\2 ")),
    ("infinite position", "E_BAD_VALUE", element(0x00200032, "DS", b"1\\2\\1e999")),
    ("slope as text", "E_BAD_VALUE", element(0x00281053, "DS", b"steep ")),
    ("rows 0", "E_BAD_VALUE", element(0x00280010, "US", b"\0\0")),
    ("a path as UID", "E_BAD_UID", element(0x00080018, "UI", b"../../etc/passwd")),
    ("a UID of 66 characters", "E_BAD_UID", element(0x0020000E, "UI", b"1." * 33)),
    ("HTML as UID", "E_BAD_UID", element(0x00080018, "UI", b"<script>")),
    ("two frames", "E_UNSUPPORTED_PIXELS", element(0x00280008, "IS", b"2 ")),
    ("2^31 frames", "E_UNSUPPORTED_PIXELS", element(0x00280008, "IS", b"2147483648")),
    ("RGB", "E_UNSUPPORTED_PIXELS", element(0x00280004, "CS", b"RGB ")),
    ("one bit", "E_UNSUPPORTED_PIXELS", element(0x00280100, "US", pack("<H", 1))),
    ("32 bits", "E_UNSUPPORTED_PIXELS", element(0x00280100, "US", pack("<H", 32))),
    ("65535 x 65535", "E_TRUNCATED", element(0x00280010, "US", b"\xff\xff")),
    ("enhanced CT without groups", "E_MISSING_TAG",
     element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2.1\0")),
    ("an unknown class", "E_UNSUPPORTED_PIXELS", element(0x00080016, "UI", b"1.2.3\0")),
    ("PET", "E_QUANTITATIVE", element(0x00080060, "CS", b"PT")),
    ("activity", "E_QUANTITATIVE", element(0x00541001, "CS", b"BQML")),
    ("real-world values", "E_QUANTITATIVE", element(0x00409096, "SQ", b"")),
    ("a segmentation", "E_NOT_IMAGE", element(0x00080060, "CS", b"SEG ")),
    ("a spectroscopy", "E_NOT_IMAGE",
     lambda p: (element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.4.2")(p),
                without(0x00280010, 0x7FE00010)(p))),
    ("a report with pixels", "E_UNSUPPORTED_PIXELS",
     element(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.88.11")),
    ("an unknown syntax", "E_TRANSFER_SYNTAX", syntax(b"1.2.840.10008.1.2.9\0")),
    ("a broken syntax", "E_TRANSFER_SYNTAX", syntax(b"1.2.<b>.10008.1.2.1\0")),
    ("a SOP class as syntax", "E_TRANSFER_SYNTAX", syntax(b"1.2.840.10008.1.1\0\0\0")),
    ("a modality LUT", "E_RESCALE", element(0x00283000, "SQ", b"")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "spoil"), [s[1:] for s in SPOILS], ids=[s[0] for s in SPOILS])
@pytest.mark.filterwarnings("error")
def test_a_file_that_cannot_be_protected_is_listed_with_its_code(tmp_path, code, spoil):
    write_ct_series(tmp_path / "good", slices=2, rows=32, columns=32, seed=1)
    (bad,) = write_ct_series(tmp_path / "bad", slices=1, rows=32, columns=32, seed=2)
    spoil(bad)
    found = scan(tmp_path)
    assert [entry.path for entry in found.left_out] == [bad]
    assert found.left_out[0].code.startswith(code)
    assert found.left_out[0].reason
    assert [len(series.paths) for series in found.series] == [2]


def test_compressed_pixels_that_were_cut_are_no_readable_series(tmp_path):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    compressed_and_cut(path)
    found = scan(tmp_path)
    if not found.left_out:
        with pytest.raises(InputError):
            read_series(found.series[0].paths)


def test_every_file_of_an_export_is_in_the_scan_once(tmp_path):
    for number, (_, _, spoil) in enumerate(SPOILS):
        (path,) = write_ct_series(
            tmp_path / f"{number:02d}", slices=1, rows=32, columns=32, seed=number
        )
        spoil(path)
    good = write_ct_series(tmp_path / "good", slices=3, rows=32, columns=32, seed=99)
    shutil.copy(good[0], tmp_path / "copy.dcm")
    (tmp_path / "folder").symlink_to(tmp_path / "good")
    (tmp_path / "empty").mkdir()
    everything = [
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*")
        if path.is_symlink() or not path.is_dir()
    ]
    found = scan(tmp_path)
    assert listed(found, tmp_path) == sorted(everything)


def test_our_own_output_is_left_out_as_already_protected(tmp_path):
    sources = write_ct_series(tmp_path / "in", slices=2, rows=32, columns=32)
    write(sources, tmp_path / "out")
    assert {e.code for e in scan(tmp_path / "out").left_out} == {"E_ALREADY_PROTECTED"}
    assert len(scan(tmp_path / "in").series) == 1


def test_copies_are_left_out_and_one_of_them_is_kept(tmp_path):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32)
    for name in ("x.dcm", "y.dcm"):
        shutil.copy(path, tmp_path / name)
    found = scan(tmp_path)
    assert [e.code for e in found.left_out] == ["E_DUPLICATE"] * 2
    assert len(found.series[0].paths) == 1


def test_an_index_of_the_export_is_no_image(tmp_path):
    dataset = Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.FileSetID = "CD1"
    dataset.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    found = scan(tmp_path)
    assert (found.indexes, found.left_out) == ((tmp_path / "DICOMDIR",), ())
    with pytest.raises(NotImage, match="DICOMDIR"):
        image_header(tmp_path / "DICOMDIR")


@pytest.fixture
def unreadable(tmp_path) -> Path:
    (path,) = write_ct_series(tmp_path / "closed", slices=1, rows=32, columns=32)
    return path


def test_a_file_that_may_not_be_read_is_listed(unreadable, monkeypatch):
    real = Path.open

    def refuse(self, *arguments, **settings):
        if self == unreadable:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    (entry,) = scan(unreadable.parent).left_out
    assert entry.code == "E_PERMISSION"
    assert "closed" not in entry.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission_is_listed(unreadable):
    unreadable.chmod(0)
    assert [e.code for e in scan(unreadable.parent).left_out] == ["E_PERMISSION"]


def test_a_folder_that_may_not_be_read_is_listed(unreadable, tmp_path, monkeypatch):
    real = os.scandir

    def refuse(place):
        if str(place) == str(unreadable.parent):
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", refuse)
    (entry,) = scan(tmp_path).left_out
    assert (entry.path, entry.code) == (unreadable.parent, "E_PERMISSION")


def test_a_link_out_of_the_export_is_not_followed(tmp_path):
    (path,) = write_ct_series(tmp_path / "elsewhere", slices=1, rows=32, columns=32)
    write_ct_series(tmp_path / "export", slices=1, rows=32, columns=32, seed=5)
    (tmp_path / "export" / "link.dcm").symlink_to(path)
    assert {e.path.name: e.code for e in scan(tmp_path / "export").left_out} == {
        "link.dcm": "E_NOT_REGULAR"
    }


def test_the_result_does_not_depend_on_names_or_on_the_order_in_folders(tmp_path):
    for folder, names in {"one": "abc", "two": "zyx"}.items():
        for index, seed in enumerate((3, 4)):
            paths = write_ct_series(
                tmp_path / folder / names[index], slices=3, rows=32, columns=32, seed=seed
            )
            for path, name in zip(paths, names, strict=True):
                path.rename(path.with_name(name))
    one, two = scan(tmp_path / "one"), scan(tmp_path / "two")
    assert [[h.sop_uid for h in s.headers] for s in one.series] == [
        [h.sop_uid for h in s.headers] for s in two.series
    ]


def test_a_single_file_can_be_scanned(tmp_path):
    first, _ = write_ct_series(tmp_path, slices=2, rows=32, columns=32)
    assert [series.paths for series in scan(first).series] == [(first,)]


def test_an_export_or_a_file_that_is_given_as_a_link_is_scanned(tmp_path):
    write_ct_series(tmp_path / "export", slices=1, rows=32, columns=32)
    (tmp_path / "link").symlink_to(tmp_path / "export")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "export" / "IM00001.dcm")
    for place in ("link", "link.dcm"):
        found = scan(tmp_path / place)
        assert (len(found.series), found.left_out) == (1, ())
