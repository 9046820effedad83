"""VolumeWriter as MONAI's NIfTI writer behaves; DICOM only as SaveVolume writes it."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, NibabelWriter
from monai.data.image_writer import SUPPORTED_WRITERS
from monai.transforms import Flip, LoadImage, SaveImage, SaveImaged, Spacing

from salm_dicom.errors import BadValue, MismatchError, PlanError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.transforms import SALM, LoadVolume, SaveVolume, VolumeReader, VolumeWriter
from tests.nifti_files import RAS, write_nifti_file
from tests.synthetic import write_ct_series

NAME = "salm_dicom.transforms.VolumeWriter"
CREATED = datetime(2026, 1, 2, tzinfo=UTC)
RANDOM = Protector(plan=ProtectionPlan(method="random"))


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> MetaTensor:
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(shape, generator=generator) * 200).to(dtype)
    return MetaTensor(values, affine=torch.from_numpy(RAS), meta={"filename_or_obj": "a/in.nii.gz"})


CASES = {
    "three axes": (tensor(1, 7, 5, 4), {}),
    "channels": (tensor(3, 7, 5, 4), {}),
    "end axes kept": (tensor(1, 7, 5, 1), {"squeeze_end_dims": False}),
    "channels last": (tensor(7, 5, 4, 3), {"channel_dim": -1}),
    "no channel": (tensor(7, 5, 4), {"channel_dim": None}),
    "unsigned bytes": (tensor(1, 7, 5, 4), {"output_dtype": np.uint8}),
    "kept type": (tensor(1, 7, 5, 4, dtype=torch.int16), {"output_dtype": None}),
    "not compressed": (tensor(1, 7, 5, 4), {"output_ext": ".nii"}),
}


def saved(folder: Path, image: MetaTensor, writer: object, **options: object) -> Path:
    SaveImage(folder, writer=writer, print_log=False, **options)(image)
    (path,) = (p for p in folder.rglob("*") if p.is_file())
    return path


@pytest.mark.parametrize("name", CASES)
def test_nifti_is_written_as_monai_writes_it(tmp_path, name):
    image, options = CASES[name]
    found = saved(tmp_path / "ours", image.clone(), VolumeWriter, **options)
    expected = saved(tmp_path / "monais", image.clone(), NibabelWriter, **options)
    assert found.relative_to(tmp_path / "ours") == expected.relative_to(tmp_path / "monais")
    ours, monais = nib.load(found), nib.load(expected)
    assert ours.get_data_dtype() == monais.get_data_dtype()
    assert np.array_equal(ours.dataobj, monais.dataobj)
    assert np.array_equal(ours.affine, monais.affine)
    read = gzip.decompress if found.suffix == ".gz" else bytes
    assert read(found.read_bytes()) == read(expected.read_bytes())


@pytest.mark.parametrize("shape", [(1, 7, 5), (1, 7, 5, 1)])
def test_a_slice_is_written_without_spatial_shape(tmp_path, shape):
    image = tensor(*shape)  # MONAI 1.6.1's NibabelWriter raises
    written = nib.load(saved(tmp_path / "ours", image.clone(), VolumeWriter))
    assert np.array_equal(written.dataobj, image.numpy().reshape(7, 5))
    assert np.allclose(written.affine, RAS)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("move", [Flip(0), Spacing((1.3, 0.8, 2.0))], ids=["flip", "spacing"])
def test_resampling_goes_back_to_the_original_grid_as_monais(tmp_path, move, mode):
    path = write_nifti_file(tmp_path / "in.nii.gz")
    image = move(LoadImage(VolumeReader, ensure_channel_first=True)(path))
    options = {"resample": True, "mode": mode}
    ours = nib.load(saved(tmp_path / "ours", image.clone(), VolumeWriter, **options))
    monais = nib.load(saved(tmp_path / "monais", image.clone(), NibabelWriter, **options))
    assert ours.shape == nib.load(path).shape
    assert np.array_equal(ours.dataobj, monais.dataobj)
    assert np.allclose(ours.affine, nib.load(path).affine)
    if isinstance(move, Flip):
        assert np.array_equal(ours.dataobj, nib.load(path).dataobj)


def test_names_and_folders_are_save_images(tmp_path):
    image = tensor(1, 7, 5, 4)
    path = saved(tmp_path, image, NAME, output_postfix="seg", separate_folder=False)
    assert path == tmp_path / "in_seg.nii.gz"
    SaveImaged("x", output_dir=tmp_path / "d", writer=VolumeWriter, print_log=False)({"x": image})
    assert (tmp_path / "d" / "in" / "in_trans.nii.gz").exists()


def test_a_bundle_names_the_writer(tmp_path):
    parser = ConfigParser(
        {"save": {"_target_": "SaveImaged", "keys": "x", "writer": NAME, "output_dir": "$out"}}
    )
    parser["save"]["output_dir"] = str(tmp_path)
    parser.get_parsed_content("save")({"x": tensor(1, 7, 5, 4)})
    assert (tmp_path / "in" / "in_trans.nii.gz").exists()


def test_the_object_alone_writes_arrays_and_tensors(tmp_path):
    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for number, array in enumerate((values, torch.from_numpy(values))):
        writer = VolumeWriter(output_dtype=None)
        writer.set_data_array(array, channel_dim=None)
        writer.set_metadata({"affine": RAS, "original_affine": RAS})
        writer.write(tmp_path / f"{number}.nii", verbose=False)
        image = nib.load(tmp_path / f"{number}.nii")
        assert np.array_equal(image.dataobj, values)
        assert np.allclose(image.affine, RAS)
    writer = VolumeWriter()
    writer.set_data_array(values, channel_dim=None)
    writer.set_metadata(None)
    writer.write(tmp_path / "plain.nii.gz")
    assert np.array_equal(nib.load(tmp_path / "plain.nii.gz").affine, np.eye(4))


def test_scale_makes_integers_of_zero_to_one(tmp_path):
    image = MetaTensor(torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0]).reshape(1, 5, 1, 1))
    path = saved(tmp_path, image, VolumeWriter, scale=255, output_dtype=np.uint8)
    assert np.asarray(nib.load(path).dataobj).ravel().tolist() == [0, 0, 128, 255, 255]
    with pytest.raises(PlanError, match="255, 65535 or None"):
        VolumeWriter(scale=100)


@pytest.mark.parametrize("how", ["set_options", "partial"])
def test_a_protected_series_is_written_with_the_bytes_of_save_volume(tmp_path, how):
    write_ct_series(tmp_path / "series", slices=3)
    image = SALM(RANDOM)(LoadVolume()(tmp_path / "series"))
    SaveVolume(tmp_path / "straight", CREATED)(image.clone(), "a")
    if how == "partial":
        save = SaveImage(
            tmp_path / "out", output_ext=".dcm", writer=partial(VolumeWriter, created=CREATED)
        )
    else:
        save = SaveImage(tmp_path / "out", output_ext=".dcm", writer=VolumeWriter)
        save.set_options(init_kwargs={"created": CREATED})
    save(image)
    (folder,) = {path.parent for path in (tmp_path / "out").rglob("*.dcm")}
    assert folder.name.endswith("_trans")
    found, expected = (
        [path.read_bytes() for path in sorted(place.iterdir())]
        for place in (folder, tmp_path / "straight" / "a")
    )
    assert found == expected


def test_what_would_be_no_derived_image_is_refused(tmp_path):
    write_ct_series(tmp_path / "series", slices=3)
    loaded = LoadVolume()(tmp_path / "series")
    from_nifti = SALM(RANDOM)(LoadVolume()(write_nifti_file(tmp_path / "a.nii")))
    cases = [
        (loaded, "a.dcm", CREATED, MismatchError, "apply SALM"),
        (loaded, "a.dcm", None, PlanError, "created"),
        (loaded.numpy(), "a.dcm", CREATED, MismatchError, "MetaTensor is needed"),
        (from_nifti, "a.dcm", CREATED, MismatchError, "written by SaveVolume"),
        (torch.zeros(1, 4, 4, 4, dtype=torch.float16), "a.nii", None, BadValue, "float16"),
    ]
    for image, name, created, error, text in cases:
        writer = VolumeWriter(created=created, output_dtype=None)
        writer.set_data_array(image)
        writer.set_metadata(getattr(image, "meta", None), resample=False)
        with pytest.raises(error, match=text):
            writer.write(tmp_path / "out" / name)
    with pytest.raises(MismatchError, match="set_data_array"):
        VolumeWriter().write(tmp_path / "a.nii")
    assert not (tmp_path / "out").exists()


def test_a_prediction_on_a_protected_image_is_written_as_it_is(tmp_path):
    image = SALM(RANDOM)(LoadVolume()(write_nifti_file(tmp_path / "a.nii")))
    prediction = (image > 0).float()
    path = saved(tmp_path / "out", prediction, VolumeWriter, output_dtype=np.uint8)
    assert set(np.unique(nib.load(path).dataobj)) == {0, 1}


def test_resampling_does_not_mix_up_channels():
    # MONAI 1.6.1's NibabelWriter does
    values = np.arange(630, dtype=np.float32).reshape(3, 5, 6, 7)
    swapped = np.eye(4)[[1, 0, 2, 3]]
    meta = {"affine": np.eye(4), "original_affine": swapped, "spatial_shape": (6, 5, 7)}
    writer = VolumeWriter(output_dtype=None)
    writer.set_data_array(torch.from_numpy(values))
    writer.set_metadata(meta, mode="nearest")
    assert np.array_equal(writer.data_obj, values.swapaxes(1, 2).transpose(1, 2, 3, 0))


@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 6, 8)])
@pytest.mark.parametrize("resample", [False, True])
def test_other_extensions_are_written_by_the_writer_monai_has_for_them(tmp_path, shape, resample):
    values = (torch.arange(np.prod(shape)) % 251).to(torch.uint8).reshape(shape)
    image = MetaTensor(values, meta={"filename_or_obj": "a.png", "spatial_shape": (6, 8)})
    options = {"output_ext": ".png", "resample": resample}
    found = saved(tmp_path / "ours", image.clone(), VolumeWriter, **options)
    expected = saved(tmp_path / "monais", image.clone(), None, **options)
    assert found.suffix == ".png"
    assert found.read_bytes() == expected.read_bytes()


def test_in_place_of_all_writers_it_does_not_call_itself_for_ever(monkeypatch, tmp_path):
    for writer in (VolumeWriter, partial(VolumeWriter, created=CREATED)):
        monkeypatch.setitem(SUPPORTED_WRITERS, "png", (writer,))
        one = writer()
        one.set_data_array(torch.zeros(1, 6, 8))
        one.set_metadata(None)
        with pytest.raises(PlanError, match=r"no writer for \.png"):
            one.write(tmp_path / "a.png")


@pytest.mark.parametrize(("space", "option", "turned"), [
    ("RAS", None, 1), ("LPS", None, -1), ("RAS", True, 1), ("LPS", True, 1), ("RAS", False, -1),
])  # fmt: skip
def test_nifti_is_in_ras_whatever_the_space_of_the_image(tmp_path, space, option, turned):
    image = tensor(1, 7, 5, 4)
    image.meta["space"] = space
    writer = VolumeWriter(affine_lps_to_ras=option)
    writer.set_data_array(image)
    writer.set_metadata(image.meta)
    writer.write(tmp_path / "a.nii")
    assert np.allclose(nib.load(tmp_path / "a.nii").affine, np.diag([turned, turned, 1, 1]) @ RAS)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 2, 3, 8), (2, 3, 8), (3, 2, 2, 4)])
@pytest.mark.parametrize("resample", [False, True])
def test_what_is_written_is_read_back_in_its_type(tmp_path, kind, shape, resample):
    values = np.arange(48, dtype=kind).reshape(shape)
    swapped = np.eye(4)[[1, 0, 2, 3]]
    meta = {"filename_or_obj": "a.png", "affine": np.eye(4), "original_affine": swapped}
    image = MetaTensor(torch.from_numpy(values), meta=meta)
    path = saved(tmp_path, image, VolumeWriter, output_dtype=None, resample=resample)
    back = LoadImage(VolumeReader, squeeze_non_spatial_dims=True, dtype=None)(path)
    expected = values.swapaxes(1, 2) if resample else values
    expected = expected[0] if shape[0] == 1 else np.moveaxis(expected, 0, -1)
    if shape == (2, 3, 8):
        expected = expected[..., None, :]  # the third axis is for slices
    assert back.numpy().dtype == kind
    assert np.array_equal(back.numpy(), expected)
    assert (back.meta["qform_code"], back.meta["sform_code"]) == (1, 1)
