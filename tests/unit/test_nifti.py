"""NIfTI in and out on stored integers: byte by byte what the source was, but for the change."""

from __future__ import annotations

import gzip
import hashlib
import json
import stat
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salm_dicom import errors
from salm_dicom.nifti.image import parse, read
from salm_dicom.nifti.orientation import flips, turned, turned_affine
from salm_dicom.nifti.series import NiftiSeries, read_nifti, write_nifti
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord
from tests.nifti_files import RAS, add_field, hounsfield, sidecar, write_nifti_file

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
RANDOM = Protector(plan=ProtectionPlan(method="random"))


def record_of(series: NiftiSeries) -> ProtectionRecord:
    return RANDOM.apply(series.volumes[0], series_uid=series.series_uid).record


def protect(path: Path, folder: Path) -> tuple[Path, list[np.ndarray]]:
    """Protect a file with the random control and return the written file and the changes."""
    series = read_nifti(path)
    found = [RANDOM.apply(v, series_uid=series.series_uid) for v in series.volumes]
    deltas = [one.delta for one in found]
    written, _ = write_nifti(
        series.origin, lambda frame, _: deltas[frame], folder, found[0].record,
        modality=series.volumes[0].modality, created=CREATED,
    )  # fmt: skip
    return written, deltas


def uncompressed(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


KINDS = {
    "little-endian 16 bit": {},
    "big-endian 16 bit": {"order": ">"},
    "unsigned 16 bit with intercept": {
        "values": (hounsfield() + 1024).clip(0).astype(np.uint16), "scaling": (1.0, -1024.0),
    },
    "32 bit": {"values": hounsfield().astype(np.int32)},
    "big-endian 64 bit": {"values": hounsfield().astype(np.int64), "order": ">"},
    "unsigned 32 bit": {
        "values": (hounsfield() + 1024).clip(0).astype(np.uint32), "scaling": (1.0, -1024.0),
    },
    "NIfTI-2": {"version": 2},
    "extension": {"extension": b"any bytes \x00\xff of somebody else"},
    "four frames": {"values": np.stack([hounsfield(seed=s) for s in range(4)], axis=-1)},
    "one slice": {"values": hounsfield(slices=1)[..., 0]},
    "turned": {"affine": RAS @ np.diag([-1.0, 1, 1, 1])},
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_changed_voxels_differ_from_the_source_file(tmp_path, kind, suffix):
    source = write_nifti_file(tmp_path / f"name{suffix}", **KINDS[kind])
    written, deltas = protect(source, tmp_path / "out" / "a")
    before, after = nib.load(source), nib.load(written)
    assert written.name == f"image{suffix}"
    assert after.header == before.header
    assert after.header.extensions == before.header.extensions
    difference = after.dataobj.get_unscaled().astype(int) - before.dataobj.get_unscaled()
    assert 0 < np.abs(difference).max() <= 6
    assert np.count_nonzero(difference) == sum(np.count_nonzero(d) for d in deltas)
    offset = before.dataobj.offset
    assert uncompressed(written)[:offset] == uncompressed(source)[:offset]
    assert len(uncompressed(written)) == len(uncompressed(source))


@pytest.mark.parametrize("kind", KINDS)
def test_stored_values_and_mapping_are_those_that_nibabel_reads(tmp_path, kind):
    path = write_nifti_file(tmp_path / "a.nii", **KINDS[kind])
    image = read(path)
    other = nib.load(path)
    stored = np.atleast_3d(other.dataobj.get_unscaled())
    stored = stored if stored.ndim == 4 else stored[..., None]
    assert np.array_equal(image.voxels().T, stored)
    assert image.scaling == (other.dataobj.slope, other.dataobj.inter)
    assert np.array_equal(image.affine, other.affine)
    for frame, volume in enumerate(read_nifti(path).volumes):
        i, j, k = 5, 7, volume.pixels.values.shape[0] - 1
        place = (volume.affine @ [i, j, k, 1])[:3]
        home = np.rint(np.linalg.inv(other.affine) @ [*place, 1])[:3].astype(int)
        assert volume.pixels.values[k, j, i] == stored[(*home, frame)]


@given(
    stored=st.sampled_from(["<i2", ">i2", "<u1", ">i4", "<u4", "<i8"]),
    signs=st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    axes=st.permutations(range(3)),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=40)
def test_subtracting_the_change_gives_the_source_back_byte_for_byte(
    tmp_path_factory, stored, signs, axes, seed
):
    folder, rng = tmp_path_factory.mktemp("law"), np.random.default_rng(seed)
    kind = np.dtype(stored)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[:, list(axes)] * [1, 2, 3]
    values = rng.integers(20, 100, (4, 5, 3, 2)).astype(kind)
    path = write_nifti_file(folder / "a.nii.gz", values, affine=affine, order=kind.str[0])
    series = read_nifti(path)
    shape = series.volumes[0].pixels.values.shape
    deltas = rng.integers(-3, 4, (2, *shape))
    deltas[0, 0, 0, 0] = 3
    record = ProtectionRecord.from_json(_record(budget=3))
    written, _ = write_nifti(
        series.origin, lambda frame, _: deltas[frame], folder / "out", record,
        modality="CT", created=CREATED,
    )  # fmt: skip
    protected, turn = read(written), flips(series.volumes[0].affine)
    assert not any(turn)
    native = flips(read(path).affine)
    back = protected.voxels().astype(np.int64) - np.stack([turned(d, native) for d in deltas])
    restored = protected.with_voxels(back)
    assert restored.data == read(path).data
    assert restored.to_file() == gzip.compress(read(path).data, 6, mtime=0)


def _record(budget: int) -> str:
    return ProtectionRecord(
        method="random", extent="slice", epsilon=0.1, budget_modality=budget, budget_stored=budget,
        units="HU", intensity_range=(0, 100), rho=1.0, foreground_share=1, changed_share=1,
        largest_change_stored=budget, largest_change_modality=budget, digest="d" * 64,
    ).to_json()  # fmt: skip


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PSR", "AIL", "SRP", "RPI"])
def test_the_grid_is_turned_as_a_dicom_series_is_and_turned_back(codes):
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(codes), (4, 5, 6)
    ) @ np.diag([2.0, 3, 4, 1])  # fmt: skip
    turn = flips(affine)
    up = turned_affine(affine, (4, 5, 6), turn)
    assert set(nib.aff2axcodes(up)[:2]) <= set("LPI")
    assert np.linalg.det(up) > 0
    values = np.arange(120).reshape(6, 5, 4)
    assert np.array_equal(turned(turned(values, turn), turn), values)
    assert not any(flips(up))


def test_a_second_write_gives_the_same_bytes_without_name_or_time(tmp_path):
    source = write_nifti_file(tmp_path / "secret-name.nii.gz")
    first, _ = protect(source, tmp_path / "out" / "a")
    again, _ = protect(source, tmp_path / "out" / "b")
    assert first.read_bytes() == again.read_bytes()
    assert (first.parent / "image.json").read_bytes() == (again.parent / "image.json").read_bytes()
    assert first.read_bytes()[3:8] == bytes(5)  # no flags, so no name; time 0
    assert b"secret" not in first.read_bytes()


def test_the_sidecar_says_what_was_done_and_nothing_of_the_source(tmp_path):
    source = write_nifti_file(tmp_path / "Doe^Jane.nii.gz")
    add_field(source, PatientName="Doe^Jane", SeriesInstanceUID="1.2.3.4")
    written, deltas = protect(source, tmp_path / "out" / "a")
    text = (written.parent / "image.json").read_text()
    said = json.loads(text)
    ours = said["SalmDicom"]
    assert said["Modality"] == "CT"
    assert ours["LargestChange"] == {"Stored": int(np.abs(deltas[0]).max()), "Modality": 6.0}
    assert ours["Budget"] == {
        "Fraction": 6 / 400, "Modality": 6.0, "Stored": 6, "Units": "HU"
    }  # fmt: skip
    assert ours["SourceSHA256"] == read(source).sha256
    assert ours["ImageSHA256"] == read(written).sha256
    assert not any(secret in text for secret in ("Doe", "1.2.3.4", str(tmp_path), '"seed"'))
    assert read_nifti(source).series_uid == "1.2.3.4"


def test_the_seed_of_a_file_without_uid_needs_its_bytes_and_not_what_a_sidecar_shows(tmp_path):
    plain = write_nifti_file(tmp_path / "a.nii")
    packed = write_nifti_file(tmp_path / "b.nii.gz")
    data = plain.read_bytes()
    expected = hashlib.sha256(b"salm_dicom series of NIfTI\0" + data).hexdigest()
    assert read_nifti(plain).series_uid == read_nifti(packed).series_uid == expected


def test_files_are_the_owners_alone(tmp_path):
    written, _ = protect(write_nifti_file(tmp_path / "a.nii"), tmp_path / "out" / "a")
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (written.parent, *written.parent.iterdir())]
    assert modes == [0o700, 0o600, 0o600]


def test_a_protected_file_is_known_by_its_sidecar(tmp_path):
    written, _ = protect(write_nifti_file(tmp_path / "a.nii"), tmp_path / "out" / "a")
    with pytest.raises(errors.AlreadyProtected):
        read_nifti(written)


def test_an_existing_target_is_never_overwritten(tmp_path):
    source = write_nifti_file(tmp_path / "a.nii")
    (tmp_path / "out").mkdir()
    with pytest.raises(errors.MismatchError, match="never overwritten"):
        protect(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


REFUSED_CHANGES = {
    "too large": (7, "7 stored units, 6 are allowed"),
    "out of range": (1, "would leave -32768..32767"),
    "nothing": (0, "was SALM applied"),
}


@pytest.mark.parametrize("name", REFUSED_CHANGES)
def test_a_change_that_is_not_meant_writes_nothing(tmp_path, name):
    values = hounsfield()
    values[0, 0, 0] = 32767 if name == "out of range" else 0
    source = write_nifti_file(tmp_path / "a.nii", values)
    series = read_nifti(source)
    change, message = REFUSED_CHANGES[name]
    delta = np.full(series.volumes[0].pixels.values.shape, change)
    with pytest.raises(errors.MismatchError, match=message):
        write_nifti(
            series.origin, lambda *_: delta, tmp_path / "out" / "a", record_of(series),
            modality="CT", created=CREATED,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_source_that_changed_meanwhile_is_refused(tmp_path):
    source = write_nifti_file(tmp_path / "a.nii")
    series = read_nifti(source)
    write_nifti_file(source, hounsfield(seed=9))
    with pytest.raises(errors.Changed):
        write_nifti(
            series.origin, lambda _, b: np.ones_like(b.values), tmp_path / "out",
            record_of(series), modality="CT", created=CREATED,
        )  # fmt: skip


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    source = write_nifti_file(tmp_path / "a.nii")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("salm_dicom.folder.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        protect(source, tmp_path / "out" / "a")
    assert not list((tmp_path / "out").iterdir())


def label_map() -> np.ndarray:
    labels = np.zeros((40, 40, 3), np.uint8)
    labels[5:20, 5:30], labels[20:35, 8:30] = 7, 9
    return labels


LEFT_OUT = {
    "float": ({"values": hounsfield().astype(np.float32)}, "E_UNSUPPORTED_PIXELS", "floating"),
    "complex": ({"values": hounsfield().astype(np.complex64)}, "E_UNSUPPORTED_PIXELS", "complex"),
    "colour": (
        {"values": np.zeros((4, 4, 2), [(c, "u1") for c in "RGB"])},
        "E_UNSUPPORTED_PIXELS", "colour",
    ),
    "five dimensions": (
        {"values": np.zeros((4, 4, 2, 1, 3), np.int16)}, "E_UNSUPPORTED_PIXELS", "2 to 4 dim",
    ),
    "one dimension": ({"values": np.zeros(4, np.int16)}, "E_UNSUPPORTED_PIXELS", "2 to 4 dim"),
    "40 bits": (
        {"values": np.arange(60).reshape(3, 4, 5) << 34}, "E_UNSUPPORTED_PIXELS", "need 40 bits",
    ),
    "labels": ({"values": label_map()}, "E_NOT_IMAGE", "label map"),
    "declared labels": ({"intent_code": 1002}, "E_NOT_IMAGE", "intent_code"),
    "no modality": ({"modality": None}, "E_NO_MODALITY", "--modality"),
    "PET": ({"modality": "PT"}, "E_QUANTITATIVE", "uptake"),
    "ultrasound": ({"modality": "US"}, "E_UNSUPPORTED_PIXELS", "CT, MR"),
    "slope not finite": ({"scl_slope": np.inf}, "E_BAD_VALUE", "scl_slope"),
    "intercept not finite": (
        {"scl_slope": 2, "scl_inter": np.nan}, "E_BAD_VALUE", "scl_inter",
    ),
    "affine not finite": ({"srow_x": [np.nan] * 4}, "E_GEOMETRY", "no number"),
    "flat affine": ({"srow_x": [0.0] * 4}, "E_GEOMETRY", "no volume"),
    "unknown datatype": ({"datatype": 77}, "E_BAD_VALUE", "datatype"),
    "offset in the header": ({"vox_offset": 16}, "E_BAD_VALUE", "vox_offset"),
    "offset far away": ({"vox_offset": 1e30}, "E_BAD_VALUE", "vox_offset"),
    "size below 1": ({"dim": [3, 40, -2, 3, 1, 1, 1, 1]}, "E_BAD_VALUE", "below 1"),
    "huge": ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "E_UNSUPPORTED_PIXELS", "MiB"),
    "too few voxels": ({"dim": [3, 48, 40, 99, 1, 1, 1, 1]}, "E_TRUNCATED", "before its voxels"),
    "a pair": ({"magic": b"ni1"}, "E_UNSUPPORTED_PIXELS", ".hdr and .img"),
    "no magic": ({"magic": b"abc"}, "E_NOT_DICOM", "neither"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_cannot_be_protected_exactly_is_left_out_with_its_code(tmp_path, name):
    options, code, text = LEFT_OUT[name]
    fields = {k: options[k] for k in options if k not in ("values", "modality")}
    kept = {k: options[k] for k in options if k in ("values", "modality")}
    path = write_nifti_file(tmp_path / "a.nii", **kept)
    if fields:
        data = bytearray(path.read_bytes())
        header = nib.Nifti1Header(bytes(data[:348]), check=False)
        for key, value in fields.items():
            header[key] = value
        path.write_bytes(header.binaryblock + bytes(data[348:]))
    with pytest.raises(errors.InputError, match=text) as found:
        read_nifti(path)
    assert found.value.code == code


def test_a_file_that_is_empty_cut_or_no_gzip_is_left_out_with_its_code(tmp_path):
    whole = write_nifti_file(tmp_path / "a.nii.gz").read_bytes()
    cases = {b"": "E_EMPTY", b"short": "E_NOT_DICOM", whole[:200]: "E_TRUNCATED"}
    cases |= {whole[: len(whole) // 2]: "E_TRUNCATED", whole[:60] + bytes(99): "E_DECODE"}
    cases |= {b"\x1f\x8b nothing of the kind": "E_DECODE", bytes(4000): "E_NOT_DICOM"}
    for data, code in cases.items():
        with pytest.raises(errors.InputError) as found:
            parse(data)
        assert found.value.code == code
    with pytest.raises(errors.Unreadable):
        read(tmp_path / "missing.nii")


def test_a_small_file_that_declares_gigabytes_is_refused_before_it_is_unpacked(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii")
    header = nib.Nifti1Header(path.read_bytes()[:348])
    header["dim"][1:4] = 1000, 1000, 1500
    with pytest.raises(errors.Truncated, match="too short for the voxels"):
        parse(gzip.compress(header.binaryblock + bytes(1 << 20)))


def test_a_sidecar_that_is_no_object_is_said(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii")
    for text in ("[1]", "{", "\udcff"):
        sidecar(path).write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(errors.ParseError, match="mend or remove"):
            read_nifti(path)


def test_the_option_gives_the_modality_only_where_the_sidecar_does_not(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii", modality=None)
    assert read_nifti(path, "MR").volumes[0].modality == "MR"
    add_field(path, Modality="CT")
    assert read_nifti(path, "MR").volumes[0].modality == "CT"


def test_a_sheared_grid_is_a_stack_of_slices(tmp_path):
    affine = RAS.copy()
    affine[1, 2] = 1.0
    assert "gantry tilt of 18.4" in read_nifti(
        write_nifti_file(tmp_path / "a.nii", affine=affine)
    ).volumes[0].irregular  # fmt: skip


def test_a_file_without_orientation_is_not_turned(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii")
    data = bytearray(path.read_bytes())
    data[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(data)
    stored = nib.load(path).dataobj.get_unscaled()
    assert np.array_equal(read_nifti(path).volumes[0].pixels.values.transpose(2, 1, 0), stored)


REAL = {
    "nifti_ct_seg/example_ct.nii.gz": "",
    "nifti_ct_seg/example_ct_sm.nii.gz": "",
    "nifti_ct_seg/example_seg.nii.gz": "E_NOT_IMAGE",
    "nifti_mr_seg/anatomical.nii": "",
    "nifti_mr_seg/example4d.nii.gz": "",
    "nifti_mr_seg/example_mr_sm.nii.gz": "",
    "nifti_mr_seg/example_seg_mr.nii.gz": "E_NOT_IMAGE",
    "nifti_mr_seg/t1w.nii.gz": "",
    "nifti_mr_seg/t1w_seg-manual.nii.gz": "E_NOT_IMAGE",
    "nifti_mr_seg/t2.nii.gz": "",
    "nifti_mr_seg/t2_seg-manual.nii.gz": "E_NOT_IMAGE",
    "nifti_mr_seg/t2s_uncropped.nii.gz": "",
    "nifti_mr_seg/t2s_uncropped_gmseg_manual.nii.gz": "E_NOT_IMAGE",
}


def test_every_real_file_is_in_the_table(shared):
    found = {str(p.relative_to(shared / "data")) for p in (shared / "data").glob("nifti_*/*.nii*")}
    assert found == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_real_images_are_protected_and_restored_and_label_maps_left_out(tmp_path, shared, name):
    path, modality = shared / "data" / name, "CT" if "nifti_ct" in name else "MR"
    if REAL[name]:
        with pytest.raises(errors.InputError) as left_out:
            read_nifti(path, modality)
        assert left_out.value.code == REAL[name]
        return
    series = read_nifti(path, modality)
    found = [RANDOM.apply(v, series_uid=series.series_uid) for v in series.volumes]
    most = max((f.record for f in found), key=lambda record: record.budget_stored)
    written, _ = write_nifti(
        series.origin, lambda frame, _: found[frame].delta, tmp_path / "out", most,
        modality=modality, created=CREATED,
    )  # fmt: skip
    before, after = read(path), read(written)
    offset = int(before.header["vox_offset"])
    assert after.data[:offset] == before.data[:offset]
    difference = after.voxels().astype(int) - before.voxels()
    assert all(0 < np.abs(d).max() <= f.record.budget_stored
               for d, f in zip(difference, found, strict=True))  # fmt: skip
    assert all(np.count_nonzero(d) == np.count_nonzero(f.delta)
               for d, f in zip(difference, found, strict=True))  # fmt: skip
    assert after.with_voxels(after.voxels() - difference).data == before.data
