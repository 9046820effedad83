"""Writing: what a derived instance keeps byte for byte, what it changes, and all files or none."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from struct import pack

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    RE_VALID_UID,
)

from salm_dicom.dicom.conformance import check_header
from salm_dicom.dicom.part10 import Part10, parse, read
from salm_dicom.dicom.pixels import stored_values
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.errors import Changed, MismatchError
from tests.synthetic import RAW_SYNTAXES, SYNTAXES, write_ct_series
from tests.unit.derivations import DERIVATION, derivation, derive, edited, one_voxel, write
from tests.unit.volumes import phantom_volume, untrained_protector

# The write policy, attribute by attribute; nothing else may differ.
REPLACED = {
    "ImageType", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "SmallestImagePixelValue", "LargestImagePixelValue", "PixelData",
}  # fmt: skip
ADDED = {
    "InstanceCreationDate", "InstanceCreationTime", "DerivationDescription",
    "DerivationCodeSequence", "SourceImageSequence", "ContributingEquipmentSequence",
}  # fmt: skip
REMOVED = {"IconImageSequence"}
EQUIPMENT, SOURCE_IMAGE, DERIVATION_CODE = 0x0018A001, 0x00082112, 0x00089215
DESCRIPTION, NUMBER, CHARSET = 0x0008103E, 0x00200011, 0x00080005


def as_pydicom(file: Part10) -> FileDataset:
    return pydicom.dcmread(BytesIO(file.data))


def tags(keywords: set[str]) -> set[int]:
    return {int(Tag(keyword)) for keyword in keywords}


@pytest.fixture(scope="module", params=SYNTAXES, ids=lambda s: s.name)
def pairs(request, tmp_path_factory) -> list[tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("written")
    recipe = {"slices": 2, "rows": 32, "columns": 32, "icon": True, "pixel_range": True}
    sources = write_ct_series(folder / "in", transfer_syntax=request.param, **recipe)
    return list(zip(sources, write(sources, folder / "out"), strict=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("plain")
    return write_ct_series(folder, slices=1, rows=32, columns=32)[0].read_bytes()


def test_every_attribute_off_the_write_policy_keeps_its_bytes(pairs):
    for source, target in pairs:
        before, after = pydicom.dcmread(source), pydicom.dcmread(target)
        assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
        assert set(after.keys()) - set(before.keys()) == tags(ADDED)
        assert set(before.keys()) - set(after.keys()) == tags(REMOVED)
        for tag in before.keys() & after.keys() - tags(REPLACED | ADDED):
            old, new = before.get_item(tag), after.get_item(tag)
            if isinstance(old, RawDataElement):
                assert (old.VR, old.length, old.value) == (new.VR, new.length, new.value), tag
            else:
                assert old == new, tag
        assert [int(tag) for tag in after.keys()] == sorted(int(tag) for tag in after.keys())  # noqa: SIM118


def test_uids_are_new_valid_and_of_one_series(pairs):
    sources = [pydicom.dcmread(source) for source, _ in pairs]
    targets = [pydicom.dcmread(target) for _, target in pairs]
    new = {str(t.SOPInstanceUID) for t in targets} | {str(t.SeriesInstanceUID) for t in targets}
    assert len(new) == 3
    assert not new & {str(u) for s in sources for u in (s.SOPInstanceUID, s.SeriesInstanceUID)}
    for source, target in zip(sources, targets, strict=True):
        assert target.file_meta.MediaStorageSOPInstanceUID == target.SOPInstanceUID
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "SOPClassUID"):
            assert target[keyword] == source[keyword]
    for uid in new:
        assert pydicom.uid.re.match(RE_VALID_UID, uid)
        assert len(uid) <= 64


def test_provenance_says_from_what_by_what_and_how(pairs):
    for path, target in pairs:
        source, new = pydicom.dcmread(path), pydicom.dcmread(target)
        assert new.ImageType == ["DERIVED", *source.ImageType[1:]]
        assert "largest change 1 stored units (1 HU)" in new.DerivationDescription
        (code,) = new.DerivationCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("113042", "DCM")
        (image,) = new.SourceImageSequence
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.ReferencedSOPClassUID == source.SOPClassUID
        assert image.SpatialLocationsPreserved == "YES"
        assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        (device,) = new.ContributingEquipmentSequence
        assert device.Manufacturer
        assert device.ManufacturerModelName == "salm_dicom"
        assert device.SoftwareVersions
        assert device.ContributionDateTime == "20260102030405+0000"
        assert device.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert (new.InstanceCreationDate, new.InstanceCreationTime) == ("20260102", "030405")


def test_smallest_and_largest_value_are_what_the_pixels_give(pairs):
    for _, target in pairs:
        file = read(target)
        values = stored_values(file)
        assert file.dataset.SmallestImagePixelValue == values.min()
        assert file.dataset.LargestImagePixelValue == values.max()


def test_smallest_and_largest_value_are_not_added_where_there_were_none(plain):
    new = as_pydicom(derive(parse(plain)))
    assert "SmallestImagePixelValue" not in new
    assert "LargestImagePixelValue" not in new


def test_file_meta_is_our_own(tmp_path):
    (source,) = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    dataset = pydicom.dcmread(source)
    dataset.preamble = b"II*\0" + b"PATIENT NAME".ljust(124)
    dataset.file_meta.SourceApplicationEntityTitle = "WARD7"
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = b"secret"
    dataset.save_as(source)
    (target,) = write([source], tmp_path / "out")
    data, meta = target.read_bytes(), pydicom.dcmread(target).file_meta
    assert data[:132] == b"\0" * 128 + b"DICM"
    assert {element.keyword for element in meta} == {
        "FileMetaInformationGroupLength", "FileMetaInformationVersion", "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID", "TransferSyntaxUID", "ImplementationClassUID",
        "ImplementationVersionName",
    }  # fmt: skip
    assert meta.ImplementationClassUID != dataset.file_meta.ImplementationClassUID
    assert meta.ImplementationVersionName.startswith("SALM_DICOM")
    assert len(meta.ImplementationVersionName) <= 16
    length = meta.FileMetaInformationGroupLength
    assert data[144 + length : 148 + length] == b"\x08\0\x05\0"


def test_the_same_inputs_give_the_same_bytes_and_another_digest_or_key_other_uids(tmp_path):
    sources = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    first, again, digest, key = (
        write(sources, tmp_path / name, how)[0].read_bytes()
        for name, how in {
            "first": DERIVATION,
            "again": DERIVATION,
            "digest": derivation(digest="b" * 64),
            "key": derivation(site_key=b"other"),
        }.items()
    )
    assert first == again
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({pydicom.dcmread(BytesIO(d))[keyword].value for d in (first, digest, key)}) == 3


def test_two_labels_never_give_one_uid_with_different_pixels():
    protector, volume = untrained_protector(method="salm"), phantom_volume(rows=32, columns=32)
    one, other = (
        protector.apply(volume, series_uid="1.2", label=label) for label in ("abdomen", "chest")
    )
    assert (one.delta != other.delta).any()
    uids = {derivation(digest=p.record.digest).uid("instance", "1.2.3") for p in (one, other)}
    assert len(uids) == 2


def code_sequence(undefined: bool) -> Sequence:
    item = Dataset()
    item.Manufacturer = "OLDER"
    item.ManufacturerModelName = "Odd "
    item.PurposeOfReferenceCodeSequence = [Dataset()]
    item.PurposeOfReferenceCodeSequence[0].CodeValue = "109101"
    item.is_undefined_length_sequence_item = undefined
    return Sequence([item])


@pytest.mark.parametrize("syntax", RAW_SYNTAXES, ids=lambda s: s.name)
@pytest.mark.parametrize("undefined", [False, True], ids=["defined", "undefined"])
def test_older_items_of_a_sequence_come_first_byte_for_byte(tmp_path, syntax, undefined):
    (path,) = write_ct_series(tmp_path, slices=1, rows=32, columns=32, transfer_syntax=syntax)
    dataset = pydicom.dcmread(path)
    keywords = ("ContributingEquipmentSequence", "SourceImageSequence", "DerivationCodeSequence")
    for keyword in keywords:
        setattr(dataset, keyword, code_sequence(undefined))
        dataset[keyword].is_undefined_length = undefined
    dataset.save_as(path)
    source = read(path)
    target = derive(source)
    for keyword in keywords:
        old = source.value(int(Tag(keyword)))
        assert len(old) > 50
        assert target.value(int(Tag(keyword))).startswith(old)
        first, second = as_pydicom(target)[keyword].value
        assert first.Manufacturer == "OLDER"
        assert (
            "Manufacturer" in second or "CodeValue" in second or "ReferencedSOPClassUID" in second
        )
    assert check_header(source, target) == []


def test_older_items_of_a_sequence_that_a_pacs_made_un_stay_readable(plain):
    """PS3.5 6.2.2: the value of such a sequence is Implicit VR Little Endian."""
    old = pack("<HHL", 0x0008, 0x0070, 6) + b"OLDER "
    item = pack("<HHL", 0xFFFE, 0xE000, len(old)) + old
    target = derive(edited(plain, {EQUIPMENT: ("UN", item)}))
    value, is_implicit = target.value(EQUIPMENT), target.vr(EQUIPMENT) == "UN"
    second = 8 + int.from_bytes(value[4:8], "little")
    for start in (8, second + 8):
        has_vr = value[start + 4 : start + 6] == b"LO"
        assert has_vr != is_implicit, "items are not encoded as the VR of their sequence says"


@pytest.mark.parametrize(
    ("charset", "old", "new"),
    [
        ("", b"Phantom ", "Phantom SALM"),
        ("", b"x" * 64, "x" * 59 + " SALM"),
        ("", b"Head\\Neck", "Head\\Neck SALM"),
        ("ISO_IR 100", "Schädel ".encode("latin-1"), "Schädel SALM"),
        ("ISO_IR 100", ("ä" * 64).encode("latin-1"), "ä" * 59 + " SALM"),
        ("ISO_IR 100", "Kopf\\Häls".encode("latin-1"), "Kopf\\Häls SALM"),
        ("ISO_IR 192", "Schädel".encode(), "Schädel SALM"),
        ("ISO_IR 192", ("ä" * 63).encode(), "ä" * 59 + " SALM"),
        ("\\ISO 2022 IR 87", "山田".encode("iso2022_jp"), "山田 SALM"),
        ("GB18030", "山田表".encode("gb18030"), "山田表 SALM"),
    ],
)
def test_the_series_description_says_salm_in_at_most_64_characters(plain, charset, old, new):
    changes = {CHARSET: ("CS", charset.encode()), DESCRIPTION: ("LO", old)}
    found = as_pydicom(derive(edited(plain, changes))).SeriesDescription
    found = found if isinstance(found, str) else "\\".join(found)
    assert found.rstrip() == new
    assert len(found.rstrip()) <= 64


@pytest.mark.parametrize(("charset", "old"), [("FOO", b"H\xe4ls"), ("ISO_IR 192", b"\xff\xfeab")])
@pytest.mark.filterwarnings("error")
def test_a_broken_character_set_is_survived_without_a_warning(plain, charset, old):
    changes = {CHARSET: ("CS", charset.encode()), DESCRIPTION: ("LO", old)}
    assert derive(edited(plain, changes)).value(DESCRIPTION).rstrip().endswith(b" SALM")


def test_an_instance_without_series_description_gets_one(plain):
    assert derive(edited(plain, {DESCRIPTION: None})).value(DESCRIPTION).strip() == b"SALM"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"7 ", 5007), (b" 7", 5007), (b"+7", 5007), (b"-3", 4997), (b"", 5000),
        (b"abc ", 5000), (b"1.5 ", 5000), (b"1\\2 ", 5000), (b"\xff\xfe", 5000),
        (b"2147483647", None), (b"2147480000", None), (b"999999999999", None),
        (b"-99999999999", None),
    ],
)  # fmt: skip
def test_the_series_number_is_5000_higher_and_always_a_valid_integer_string(plain, old, new):
    found = derive(edited(plain, {NUMBER: ("IS", old)})).value(NUMBER).strip().decode()
    assert len(found) <= 12
    assert -(2**31) <= int(found) < 2**31
    assert new is None or int(found) == new


@pytest.mark.parametrize("tag", [0x00880200, 0x4FFE0001, 0xFFFAFFFA, 0x00080001, 0x01000410])
def test_what_is_stale_or_void_is_removed(plain, tag):
    vr, value = {
        0x00080001: ("UL", b"\x10\x20\0\0"), 0x01000410: ("CS", b"AO"),
    }.get(tag, ("SQ", pack("<HHL", 0xFFFE, 0xE000, 0)))  # fmt: skip
    source = edited(plain, {tag: (vr, value)})
    assert tag in source
    assert tag not in derive(source)


def test_group_lengths_go_where_the_group_changed_and_stay_elsewhere(plain):
    lengths = {group << 16: ("UL", b"\x40\0\0\0") for group in (0x0008, 0x0010, 0x0018, 0x0020)}
    target = derive(edited(plain, lengths))
    assert [tag in target for tag in lengths] == [False, True, False, False]


def test_uids_that_an_anonymiser_emptied_are_filled(plain):
    emptied = dict.fromkeys((0x00080016, 0x00080018, 0x0020000D, 0x0020000E), ("UI", b""))
    source = edited(plain, emptied)
    target = derive(source)
    new = as_pydicom(target)
    meta = parse(plain).dataset.file_meta
    assert new.SOPClassUID == meta.MediaStorageSOPClassUID
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == meta.MediaStorageSOPInstanceUID
    assert len({new.SOPInstanceUID, new.StudyInstanceUID, new.SeriesInstanceUID, ""}) == 4
    assert check_header(source, target) == []


@pytest.mark.parametrize("size", [10, 700, 1000, 1024])
def test_an_older_derivation_description_stays_if_there_is_room(plain, size):
    new = derive(edited(plain, {0x00082111: ("ST", b"y" * size)})).value(0x00082111).rstrip()
    assert len(new) <= 1024
    assert b"largest change 1 stored units" in new
    assert new.startswith(b"y" * size + b"; ") == (size < 800)


def test_files_are_their_owner_s(tmp_path):
    sources = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    (target,) = write(sources, tmp_path / "out")
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.parent.stat().st_mode & 0o777 == 0o700


class TestAllOrNothing:
    """A series that cannot be written whole leaves no file behind."""

    @pytest.fixture
    def sources(self, tmp_path) -> list[Path]:
        return write_ct_series(tmp_path / "in", slices=3, rows=32, columns=32)

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self, tmp_path, sources):
        yield
        assert {path.name for path in tmp_path.iterdir()} == {"in"}

    def test_a_source_that_changed_since_it_was_read(self, tmp_path, sources):
        origin = read_series(sources).origin
        data = bytearray(sources[2].read_bytes())
        data[-1] ^= 1
        sources[2].write_bytes(data)
        with pytest.raises(Changed):
            write_series(origin, one_voxel, tmp_path / "out", DERIVATION)

    def test_a_change_above_the_budget_in_the_last_slice(self, tmp_path, sources):
        def too_much(index, pixels):
            return one_voxel(index, pixels) * (7 if index == 2 else 1)

        origin = read_series(sources).origin
        with pytest.raises(MismatchError, match="7 stored units, 6 are allowed"):
            write_series(origin, too_much, tmp_path / "out", DERIVATION)

    def test_no_change_at_all(self, tmp_path, sources):
        origin = read_series(sources).origin
        with pytest.raises(MismatchError, match="no voxel"):
            write_series(origin, lambda i, p: one_voxel(i, p) * 0, tmp_path / "out", DERIVATION)

    def test_an_interrupt(self, tmp_path, sources):
        def interrupt(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write(sources, tmp_path / "out", on_slice=interrupt)


def test_an_existing_target_is_refused_and_left_alone(tmp_path):
    sources = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.dcm").write_text("mine")
    with pytest.raises(MismatchError, match="never overwritten"):
        write(sources, tmp_path / "out")
    assert [p.read_text() for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    sources = write_ct_series(tmp_path / "in", slices=1, rows=32, columns=32)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "00009.dcm").write_text("half")
    assert [p.name for p in write(sources, tmp_path / "out")] == ["00001.dcm"]
    assert not (tmp_path / "out.partial").exists()


def test_the_change_is_exactly_what_was_asked(pairs):
    for source, target in pairs:
        delta = stored_values(read(target)).astype(int) - stored_values(read(source))
        assert delta[16, 16] == 1
        assert np.count_nonzero(delta) == 1
