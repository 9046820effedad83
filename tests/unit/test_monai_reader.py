"""VolumeReader as MONAI's readers behave, where that is right, and a refusal where it is not."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    NibabelReader,
    NumpyReader,
    set_track_meta,
)
from monai.transforms import Compose, LoadImage, LoadImaged, Randomizable, SaveImage
from monai.transforms.io.array import SUPPORTED_READERS
from PIL import Image

from salm_dicom.errors import (
    BadValue,
    GeometryError,
    MismatchError,
    NotDicom,
    PlanError,
    Truncated,
    UnevenSpacing,
)
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.transforms import (
    SALM,
    LoadVolume,
    SALMd,
    SaveVolumed,
    VolumeReader,
    VolumeWriter,
)
from tests.nifti_files import RAS, hounsfield, write_nifti_file
from tests.synthetic import write_ct_series

NAME = "salm_dicom.transforms.VolumeReader"
RANDOM = Protector(plan=ProtectionPlan(method="random"))


class TakesAll(NumpyReader):
    """Stands for the reader that would take over in silence."""

    def read(self, data, **_):
        return "anything"

    def get_data(self, img):
        return np.zeros((2, 2, 2)), {}


@pytest.fixture
def series(tmp_path) -> Path:
    write_ct_series(tmp_path / "series", slices=4, rows=40, columns=48, spacing_mm=2.5)
    return tmp_path / "series"


@pytest.fixture
def image_file(tmp_path) -> Path:
    return write_nifti_file(tmp_path / "image.nii.gz")


HOW = {
    "class": lambda: LoadImage(VolumeReader),
    "instance": lambda: LoadImage(VolumeReader()),
    "name": lambda: LoadImage(NAME),
    "registered": lambda: (lambda load: (load.register(VolumeReader()), load)[1])(LoadImage()),
}


@pytest.mark.parametrize("how", HOW)
def test_a_series_folder_is_the_volume_of_load_volume_without_its_channel(series, how):
    found, expected = HOW[how]()(series), LoadVolume()(series)
    assert torch.equal(found.as_tensor(), expected[0].as_tensor())
    assert torch.equal(found.affine, expected.affine)
    assert found.meta["filename_or_obj"] == str(series)
    assert found.meta["space"] == "RAS"
    assert found.meta["spatial_shape"].tolist() == [48, 40, 4]
    assert LoadImage(VolumeReader, ensure_channel_first=True)(series).shape == expected.shape


def test_a_reader_can_be_given_when_it_is_called(series):
    assert LoadImage()(series, reader=VolumeReader()).shape == (48, 40, 4)


def test_a_bundle_names_the_reader(series):
    parser = ConfigParser(
        {"load": {"_target_": "LoadImaged", "keys": "x", "reader": NAME, "modality": "CT"}}
    )
    assert parser.get_parsed_content("load")({"x": series})["x"].shape == (48, 40, 4)


def test_files_of_one_series_are_a_volume_in_any_order(series):
    files = sorted(series.iterdir())
    expected = LoadImage(VolumeReader)(series)
    assert torch.equal(LoadImage(VolumeReader)([files[n] for n in (2, 0, 3, 1)]), expected)
    assert LoadImage(VolumeReader)(files[0]).shape == (48, 40, 1)


def test_folders_of_a_list_are_channels(tmp_path):
    for name, seed in {"a": 1, "b": 2}.items():
        write_ct_series(tmp_path / name, seed=seed)
    both = LoadImage(VolumeReader, ensure_channel_first=True)([tmp_path / "a", tmp_path / "b"])
    for channel, name in enumerate("ab"):
        assert torch.equal(both[channel].as_tensor(), LoadImage(VolumeReader)(tmp_path / name))
    write_ct_series(tmp_path / "c", rows=32, columns=32)
    with pytest.raises(MismatchError, match="channels need one grid"):
        LoadImage(VolumeReader)([tmp_path / "a", tmp_path / "c"])


def test_one_file_twice_is_two_channels(series):
    file = sorted(series.iterdir())[0]
    assert LoadImage(VolumeReader)([file, file]).shape == (2, 48, 40, 1)


ARRAYS = {
    "two axes": ((7, 5), {}),
    "three axes": ((7, 5, 4), {}),
    "over time": ((7, 5, 4, 3), {}),
    "vectors": ((7, 5, 4, 1, 3), {}),
    "vectors squeezed": ((7, 5, 4, 1, 3), {"squeeze_non_spatial_dims": True}),
    "channels first": ((3, 7, 5, 4), {"channel_dim": 0}),
    "channels third": ((7, 5, 3, 4), {"channel_dim": 2}),
    "channels last": ((7, 5, 4, 3), {"channel_dim": -1}),
    "no channel": ((7, 5, 4), {"channel_dim": "no_channel"}),
    "canonical": ((7, 5, 4), {"as_closest_canonical": True}),
}
FILES = {"one file": 1, "three files": 3}


@pytest.mark.parametrize("kind", ["<f4", ">i2", "u1"])
@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("name", ARRAYS)
def test_nifti_of_any_kind_is_read_as_monai_reads_it(tmp_path, name, files, kind):
    shape, options = ARRAYS[name]
    rng = np.random.default_rng(0)
    affine = RAS[[1, 0, 2, 3]] * [-1, 1, 1, 1]
    paths = []
    for number in range(FILES[files]):
        values = (rng.random(shape) * 100).astype(kind)
        path = tmp_path / f"{number}.nii"
        paths.append(write_nifti_file(path, values, affine=affine, modality=None, order=kind[0])
                     if kind[0] == ">" else
                     write_nifti_file(path, values, affine=affine, modality=None))  # fmt: skip
    # MONAI cannot keep big-endian values as they are
    kept = np.float32 if kind[0] == ">" else None
    found = LoadImage(VolumeReader(**options), dtype=kept)(paths)
    expected = LoadImage(NibabelReader(**options), dtype=kept)(paths)
    assert found.dtype == expected.dtype
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)
    for key in ("filename_or_obj", "space", "original_affine", "spatial_shape",
                "original_channel_dim", "as_closest_canonical"):  # fmt: skip
        assert np.array_equal(found.meta[key], expected.meta[key], equal_nan=key.endswith("dim"))
    for key in ("pixdim", "original_pixdim"):
        # MONAI puts the length of the affine's last column into pixdim[4], which is time
        assert np.array_equal(found.meta[key][:4], expected.meta[key][:4])


def test_meta_is_only_strings_and_numbers_and_tells_no_text_of_the_header(series, image_file):
    for source in (series, image_file):
        meta = LoadImage(VolumeReader)(source).meta
        for value in meta.values():
            assert isinstance(value, str | int | float) or np.asarray(value).dtype.kind in "iuf"
        assert "made for a test" not in str(meta)


def test_options_of_load_image_do_what_they_do_elsewhere(image_file):
    image, meta = LoadImage(VolumeReader, image_only=False)(image_file)
    assert meta["original_affine"].shape == (4, 4)
    assert "qform_code" in image.meta
    pruned = LoadImage(VolumeReader, prune_meta_pattern=".*_code$", prune_meta_sep=" ")(image_file)
    assert not [key for key in pruned.meta if str(key).endswith("_code")]
    simple = LoadImage(VolumeReader, simple_keys=True, ensure_channel_first=True)(image_file)
    assert "pixdim" not in simple.meta
    assert SALM(RANDOM)(simple).shape == (1, 48, 40, 3)
    set_track_meta(False)
    try:
        assert not isinstance(LoadImage(VolumeReader)(image_file), MetaTensor)
    finally:
        set_track_meta(True)


def test_what_cannot_be_read_right_is_refused_and_no_other_reader_takes_over(tmp_path, image_file):
    write_ct_series(tmp_path / "tilt", slices=3, direction=(0.0, 0.3, 0.95))
    write_ct_series(tmp_path / "cut", slices=2)
    first = sorted((tmp_path / "cut").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    write_ct_series(tmp_path / "two" / "a", seed=1)
    write_ct_series(tmp_path / "two" / "b", seed=2)
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"no NIfTI at all" * 100)
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "tilt": UnevenSpacing,
        tmp_path / "cut": Truncated,
        first: Truncated,
        tmp_path / "two": GeometryError,
        tmp_path / "empty": GeometryError,
        broken: BadValue,
    }
    for path, error in cases.items():
        reader = VolumeReader()
        reader.read(path)
        with pytest.raises(error):
            LoadImage([TakesAll(), reader])(path)
    assert LoadImage(VolumeReader, allow_irregular=True)(tmp_path / "tilt").shape[-1] == 3


def test_the_series_of_monais_tests_is_refused_for_its_gaps(shared):
    folder = shared / "data" / "tiny_series" / "monai_ct_4"
    with pytest.raises(UnevenSpacing, match=r"1\.25 to 202\.5 mm apart"):
        LoadImage(VolumeReader)(folder)
    assert LoadImage(VolumeReader, allow_irregular=True)(folder).shape == (16, 16, 4)


def test_what_is_neither_dicom_nor_nifti_is_left_to_other_readers(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(1, 2, 3))
    assert LoadImage(VolumeReader)(tmp_path / "a.npy").shape == (1, 2, 3)
    assert not VolumeReader().verify_suffix(tmp_path / "a.npy")
    with pytest.raises(RuntimeError, match="cannot find a suitable reader"):
        LoadImage(VolumeReader)(tmp_path / "missing")


def test_suffix_and_content_say_what_is_for_this_reader(series, image_file):
    reader = VolumeReader()
    assert reader.verify_suffix(series)
    assert reader.verify_suffix([*series.iterdir()])
    assert reader.verify_suffix(image_file)


def test_a_series_can_be_named_where_a_folder_holds_several(tmp_path):
    for seed, name in enumerate("ab"):
        write_ct_series(tmp_path / "two" / name, seed=seed)
    uid = LoadVolume()(tmp_path / "two" / "b").meta["series_uid"]
    found = LoadImage(VolumeReader, series_name=uid)(tmp_path / "two")
    assert torch.equal(found, LoadImage(VolumeReader)(tmp_path / "two" / "b"))
    with pytest.raises(GeometryError, match="no series of this name"):
        LoadImage(VolumeReader, series_name="1.2.3")(tmp_path / "two")


def test_options_of_other_readers_are_taken_unless_they_would_turn_the_image_round(
    series, image_file
):
    load = LoadImage(VolumeReader, mmap=False, pixel_type=None, reverse_indexing=False)
    assert load(series).shape == (48, 40, 4)
    for option in ({"reverse_indexing": True}, {"swap_ij": False}):
        for path in (series, image_file):
            with pytest.raises(PlanError, match="its axes fit its affine"):
                LoadImage([TakesAll(), VolumeReader(**option)])(path)


def test_as_a_default_reader_it_leaves_the_reader_that_was_asked_for_alone(monkeypatch, tmp_path):
    monkeypatch.setitem(SUPPORTED_READERS, "volumereader", VolumeReader)
    Image.fromarray(np.zeros((7, 5), np.uint8)).save(tmp_path / "a.png")
    assert LoadImage("PILReader", reverse_indexing=True)(tmp_path / "a.png").shape == (5, 7)
    for name in ("missing", "missing.dcm"):
        with pytest.raises(RuntimeError, match="cannot find a suitable reader"):
            LoadImage("PILReader")(tmp_path / name)
        assert not VolumeReader().verify_suffix(tmp_path / name)


@pytest.mark.parametrize("source", ["series", "image_file"])
def test_an_affine_in_lps_says_so_cannot_be_protected_and_is_written_right(
    request, tmp_path, source
):
    path = request.getfixturevalue(source)
    found = LoadImage(VolumeReader, affine_lps_to_ras=False, ensure_channel_first=True)(path)
    expected = LoadImage(VolumeReader, ensure_channel_first=True)(path)
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine[:2], -expected.affine[:2])
    assert torch.equal(found.affine[2:], expected.affine[2:])
    assert (found.meta["space"], expected.meta["space"]) == ("LPS", "RAS")
    with pytest.raises(MismatchError, match="affine is in LPS"):
        SALM(RANDOM)(found)
    both = LoadImage(VolumeReader, affine_lps_to_ras=False)([path, path])
    assert torch.equal(both.affine, found.affine)
    SaveImage(tmp_path / "out", writer=VolumeWriter, print_log=False, resample=True)(found)
    (written,) = (tmp_path / "out").rglob("*.nii.gz")
    assert np.allclose(nib.load(written).affine, expected.affine)


def test_only_files_of_a_folder_whose_path_matches_are_taken(series):
    (series / "notes.txt").write_text("no DICOM")
    with pytest.raises(NotDicom):
        LoadImage(VolumeReader)(series)
    found = LoadImage(VolumeReader, fname_regex=r".*IM0000[12]\.dcm$")(series)
    assert found.shape == (48, 40, 2)
    (series / "notes.txt").unlink()
    assert LoadImage(VolumeReader, fname_regex=None)(series).shape == (48, 40, 4)
    with pytest.raises(GeometryError, match="matches no file"):
        LoadImage(VolumeReader, fname_regex=r"^(?!.*).*")(series)


def test_a_label_map_is_loaded_and_salm_says_why_it_is_not_protected(tmp_path):
    labels = np.zeros((40, 40, 3), np.uint8)
    labels[5:20, 5:30] = 7
    path = write_nifti_file(tmp_path / "seg.nii.gz", labels)
    image = LoadImage(VolumeReader, ensure_channel_first=True)(path)
    assert torch.equal(image[0], torch.from_numpy(labels).float())
    with pytest.raises(MismatchError, match=r"E_NOT_IMAGE.*label map"):
        SALM(RANDOM)(image)
    with pytest.raises(MismatchError, match="load each for itself"):
        SALM(RANDOM)(LoadImage(VolumeReader, ensure_channel_first=True)([path, path]))


@pytest.mark.parametrize("frames", [1, 3])
def test_what_the_reader_loads_is_protected_and_saved(tmp_path, series, frames):
    values = np.stack([hounsfield(seed=n) for n in range(frames)], axis=-1).squeeze()
    path = write_nifti_file(tmp_path / "scan.nii", values)
    created = datetime(2026, 1, 2, tzinfo=UTC)
    pipeline = Compose(
        [
            LoadImaged("x", VolumeReader, ensure_channel_first=True),
            SALMd("x", RANDOM),
            SaveVolumed("x", tmp_path / "out", created),
        ]
    )
    saved = Path(pipeline({"x": path})["x"].meta["saved_to"])
    difference = nib.load(saved / "image.nii").dataobj.get_unscaled().astype(int) - values
    assert np.abs(difference).max() == 6
    folder = Path(pipeline({"x": series})["x"].meta["saved_to"])
    straight = SALM(RANDOM)(LoadVolume()(series))
    again = SaveVolumed("x", tmp_path / "again", created)({"x": straight})["x"].meta["saved_to"]
    written = [[p.read_bytes() for p in sorted(Path(f).iterdir())] for f in (folder, again)]
    assert written[0] == written[1]


def test_threads_may_share_a_reader(tmp_path):
    paths = [
        write_nifti_file(tmp_path / f"{n}.nii", np.full((4, 4, 4), n, np.int16)) for n in range(20)
    ]
    load = LoadImage(VolumeReader())
    before = pickle.dumps(load.readers[-1])
    with ThreadPoolExecutor(4) as pool:
        assert [int(image[0, 0, 0]) for image in pool.map(load, paths)] == list(range(20))
    assert pickle.dumps(load.readers[-1]) == before


@pytest.mark.slow
def test_spawned_workers_collate_what_the_reader_loads(tmp_path):
    paths = [write_nifti_file(tmp_path / f"{n}.nii", hounsfield(seed=n)) for n in range(2)]
    write_ct_series(tmp_path / "a", seed=1)
    write_ct_series(tmp_path / "b", seed=2)
    for sources in (paths, [tmp_path / "a", tmp_path / "b"]):
        pipeline = Compose(
            [LoadImaged("x", VolumeReader, ensure_channel_first=True), SALMd("x", RANDOM)]
        )
        loader = DataLoader(
            Dataset([{"x": str(path)} for path in sources], pipeline),
            num_workers=1, multiprocessing_context="spawn", batch_size=2,
        )  # fmt: skip
        (batch,) = list(loader)
        assert batch["x"].shape[:2] == (2, 1)


def test_salm_is_not_random_for_monai_and_leaves_no_operation_to_invert(image_file):
    load = LoadImaged("x", VolumeReader, ensure_channel_first=True)
    pipeline = Compose([load, SALMd("x", RANDOM)])
    assert not any(isinstance(one, Randomizable) for one in pipeline.transforms)
    straight = pipeline({"x": image_file})["x"]
    assert straight.applied_operations == []
    cached = CacheDataset([{"x": image_file}], pipeline, progress=False)
    assert torch.equal(cached[0]["x"], straight)
    with torch.inference_mode():
        assert torch.equal(pipeline({"x": image_file})["x"], straight)


def test_importing_registers_nothing_with_monai():
    code = (
        "import salm_dicom.transforms\n"
        "from monai.data.image_writer import SUPPORTED_WRITERS, resolve_writer\n"
        "from monai.transforms.io.array import SUPPORTED_READERS\n"
        "assert not SUPPORTED_WRITERS\n"
        "assert resolve_writer('nii.gz')\n"
        "assert 'VolumeReader' not in str(SUPPORTED_READERS)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_monais_own_saving_works_on_what_the_reader_loads(series, tmp_path):
    image = LoadImage(VolumeReader, ensure_channel_first=True)(series)
    SaveImage(tmp_path / "out", output_postfix="x", print_log=False)(image)
    back = LoadImage(VolumeReader, ensure_channel_first=True)(
        tmp_path / "out" / "series" / "series_x.nii.gz"
    )
    assert torch.allclose(back.as_tensor(), image.as_tensor())
    assert torch.allclose(back.affine, image.affine)
    assert json.loads(image.meta["salm_source"])["modality"] == "CT"
