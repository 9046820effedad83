"""LoadVolume, SALM and SaveVolume on NIfTI files: the bytes of the file itself, or a refusal."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Flip, Orientation, Rotate90, Spacing

from salm_dicom.errors import AlreadyProtected, MismatchError, NoModality, UnevenSpacing
from salm_dicom.nifti.series import read_nifti, write_nifti
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord
from salm_dicom.transforms import SALM, LoadVolume, LoadVolumed, SALMd, SaveVolume, SaveVolumed
from tests.nifti_files import RAS, add_field, hounsfield, write_nifti_file

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
RANDOM = Protector(plan=ProtectionPlan(method="random"))
FOUR = np.stack([hounsfield(seed=s) for s in range(4)], axis=-1)


def change(source: Path, written: Path) -> np.ndarray:
    after, before = (nib.load(p).dataobj.get_unscaled().astype(int) for p in (written, source))
    return after - before


def test_a_nifti_file_becomes_modality_values_where_its_affine_says(tmp_path):
    stored = (hounsfield() + 1024).clip(0).astype(np.uint16)
    path = write_nifti_file(tmp_path / "a.nii.gz", stored, scaling=(1.0, -1024.0))
    image, other = LoadVolume()(path), nib.load(path)
    assert image.shape == (1, 48, 40, 3)
    assert image.dtype == torch.float32
    for index in [(0, 0, 0), (5, 9, 1), (47, 39, 2)]:
        place = image.affine.numpy() @ [*index, 1]
        home = np.rint(np.linalg.inv(other.affine) @ place)[:3].astype(int)
        assert image[(0, *index)] == other.get_fdata()[tuple(home)]
    assert all(isinstance(value, str | int | float) for value in image.meta.values()
               if not isinstance(value, torch.Tensor | np.ndarray))  # fmt: skip


MOVES = {
    "none": [],
    "flips": [Flip(0), Flip(2)],
    "a quarter turn": [Rotate90(1, (0, 1)), Flip(1)],
    "another orientation": [Orientation("PIR")],
}


@pytest.mark.parametrize("values", [None, FOUR], ids=["one frame", "four frames"])
@pytest.mark.parametrize("move", MOVES)
def test_a_protected_file_is_written_wherever_the_volume_was_moved_to(tmp_path, move, values):
    path = write_nifti_file(tmp_path / "a.nii.gz", values)
    image = Compose(MOVES[move])(SALM(RANDOM)(LoadVolume()(path)))
    saved = SaveVolume(tmp_path / "out", CREATED)(image, "a").meta["saved_to"]
    difference = change(path, Path(saved) / "image.nii.gz")
    record = ProtectionRecord.from_json(image.meta["salm_record"])
    frames = difference[..., None] if values is None else difference
    assert all(np.abs(frames[..., t]).max() == record.largest_change_stored == 6
               for t in range(frames.shape[-1]))  # fmt: skip


def test_the_pipeline_writes_the_bytes_of_the_integers_way(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii", FOUR)
    SaveVolume(tmp_path / "out", CREATED)(SALM(RANDOM)(LoadVolume()(path)), "piped")
    series = read_nifti(path)
    found = [RANDOM.apply(v, series_uid=series.series_uid) for v in series.volumes]
    write_nifti(
        series.origin, lambda frame, _: found[frame].delta, tmp_path / "out" / "straight",
        found[0].record, modality="CT", created=CREATED,
    )  # fmt: skip
    piped, straight = (tmp_path / "out" / n / "image.nii" for n in ("piped", "straight"))
    assert piped.read_bytes() == straight.read_bytes()


def test_dictionaries_and_spawned_workers_take_nifti_files(tmp_path):
    paths = [write_nifti_file(tmp_path / f"{n}.nii", hounsfield(seed=n)) for n in range(2)]
    pipeline = Compose(
        [
            LoadVolumed("image"),
            SALMd("image", RANDOM),
            SaveVolumed("image", tmp_path / "out", CREATED),
        ]
    )
    items = [{"image": str(path)} for path in paths]
    loader = DataLoader(
        Dataset(items, pipeline), num_workers=1, multiprocessing_context="spawn", batch_size=2
    )
    (batch,) = list(loader)
    assert batch["image"].shape == (2, 1, 48, 40, 3)
    written = sorted((tmp_path / "out").glob("*/image.nii"))
    assert len(written) == 2


def test_a_modality_given_to_the_loader_is_used(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii", modality=None)
    with pytest.raises(NoModality):
        LoadVolume()(path)
    for image in (
        LoadVolume(modality="MR")(path),
        LoadVolumed("x", modality="MR")({"x": path})["x"],
    ):
        assert image.meta["modality"] == "MR"


def test_what_the_pipeline_cannot_write_exactly_is_refused(tmp_path):
    path = write_nifti_file(tmp_path / "a.nii")
    protected = SALM(RANDOM)(LoadVolume()(path))
    save = SaveVolume(tmp_path / "out", CREATED)
    with pytest.raises(MismatchError):
        save(Spacing((1, 1, 1))(protected), "a")
    with pytest.raises(MismatchError):
        save(protected + 0.4, "a")
    with pytest.raises(MismatchError, match=r"\(1, X, Y, Z\) is needed"):
        save(protected.repeat(2, 1, 1, 1), "a")
    assert not (tmp_path / "out").exists()
    SaveVolume(tmp_path / "out", CREATED)(protected, "a")
    with pytest.raises(AlreadyProtected):
        LoadVolume()(tmp_path / "out" / "a" / "image.nii")


def test_a_sheared_file_is_loaded_only_when_that_is_asked_for(tmp_path):
    affine = RAS.copy()
    affine[1, 2] = 1.0
    path = write_nifti_file(tmp_path / "a.nii", affine=affine)
    with pytest.raises(UnevenSpacing, match="gantry tilt"):
        LoadVolume()(path)
    assert LoadVolume(allow_irregular=True)(path).shape == (1, 48, 40, 3)


def test_saving_names_the_folder_without_the_source(tmp_path):
    path = write_nifti_file(tmp_path / "Doe^Jane.nii")
    add_field(path, SeriesInstanceUID="1.2.3")
    saved = SaveVolume(tmp_path / "out", CREATED)(SALM(RANDOM)(LoadVolume()(path)))
    folder = Path(saved.meta["saved_to"])
    assert folder.name.startswith("2.25.")
    assert sorted(p.name for p in folder.iterdir()) == ["image.json", "image.nii"]
    assert json.loads((folder / "image.json").read_text())["Modality"] == "CT"
