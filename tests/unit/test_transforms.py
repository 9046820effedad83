"""LoadVolume, SALM and SaveVolume in MONAI pipelines: the bytes of a batch job, or a refusal."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Flip, Orientation, Rotate90

from salm_dicom.batch.job import Job, protect_series
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.derive import PUBLIC_SITE_KEY, Derivation
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import GeometryError, MismatchError, NoLabel, UnevenSpacing
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.record import ProtectionRecord
from salm_dicom.transforms import SALM, LoadVolume, LoadVolumed, SALMd, SaveVolume, SaveVolumed
from tests.synthetic import write_ct_series

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
RANDOM = Protector(plan=ProtectionPlan(method="random"))


def contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.dcm"))]


@pytest.fixture
def series(tmp_path) -> Path:
    write_ct_series(tmp_path / "series", slices=4, rows=48, columns=64, spacing_mm=2.5)
    return tmp_path / "series"


def test_a_volume_is_columns_rows_slices_in_hounsfield_with_a_ras_affine(series):
    image = LoadVolume()(series)
    files = [pydicom.dcmread(path) for path in sorted(series.iterdir())]
    assert image.shape == (1, 64, 48, 4)
    assert image.dtype == torch.float32
    expected = files[2].pixel_array.astype(np.float32) - 1024
    assert np.array_equal(image.numpy()[0, :, :, 2].T, expected)
    last = np.array([63, 47, 3, 1.0])
    place = np.array(files[3].ImagePositionPatient) + np.array([63 * 0.75, 47 * 0.75, 0])
    assert np.allclose((image.affine.numpy() @ last)[:3], place * [-1, -1, 1])
    assert all(isinstance(value, str | int | float) for value in image.meta.values()
               if not isinstance(value, torch.Tensor | np.ndarray))  # fmt: skip


def test_salm_returns_a_copy_and_its_record(series):
    image = LoadVolume()(series)
    before = image.clone()
    protected = SALM(RANDOM)(image)
    assert torch.equal(image, before)
    record = ProtectionRecord.from_json(protected.meta["salm_record"])
    difference = (protected - image).abs()
    assert float(difference.max()) == record.largest_change_modality == 6
    assert "salm_record" not in image.meta


EXACT_MOVES = {
    "none": [],
    "flips": [Flip(0), Flip(2)],
    "a quarter turn and a flip": [Rotate90(1, (0, 1)), Flip(1)],
    "another orientation": [Orientation("PIR")],
}


@pytest.mark.parametrize("name", EXACT_MOVES)
def test_salm_protects_a_volume_that_was_flipped_or_turned_before(series, tmp_path, name):
    moved = Compose(EXACT_MOVES[name])(LoadVolume()(series))
    SaveVolume(tmp_path / "out", CREATED)(SALM(RANDOM)(moved), "a")
    for index, path in enumerate(sorted((tmp_path / "out" / "a").iterdir())):
        source = pydicom.dcmread(sorted(series.iterdir())[index]).pixel_array
        delta = pydicom.dcmread(path).pixel_array.astype(int) - source
        assert 0 < np.abs(delta).max() <= 6


def test_an_image_that_salm_has_not_seen_is_not_saved(series, tmp_path):
    with pytest.raises(MismatchError, match="apply SALM before saving"):
        SaveVolume(tmp_path / "out", CREATED)(LoadVolume()(series))
    with pytest.raises(MismatchError, match="load it with LoadVolume"):
        SALM(RANDOM)(MetaTensor(torch.zeros(1, 4, 4, 4)))


def test_a_tilted_series_is_loaded_as_a_stack_only_when_that_is_asked_for(tmp_path):
    write_ct_series(tmp_path / "tilt", slices=3, direction=(0.0, 0.3, 0.95))
    with pytest.raises(UnevenSpacing, match="slice by slice"):
        LoadVolume()(tmp_path / "tilt")
    assert LoadVolume(allow_irregular=True)(tmp_path / "tilt").shape[-1] == 3


def test_files_of_two_series_are_not_one_volume(tmp_path):
    write_ct_series(tmp_path / "two" / "a", seed=1)
    write_ct_series(tmp_path / "two" / "b", seed=2)
    with pytest.raises(GeometryError, match="2 volumes"):
        LoadVolume()(tmp_path / "two")


@pytest.mark.slow
def test_two_spawned_workers_write_the_bytes_of_the_batch_job(tmp_path):
    folders = {"thorax": tmp_path / "a", "abdomen": tmp_path / "b"}
    for seed, (label, folder) in enumerate(folders.items()):
        write_ct_series(folder, seed=seed, lungs=label == "thorax", patient_id=label)
    plan = ProtectionPlan(steps=3, rounds=1, slice_size=(32, 32))
    studies = [
        Study(label=label, load=lambda f=folder: read_series(sorted(f.iterdir())).volume)
        for label, folder in folders.items()
    ]
    protector = fit(studies, plan, tmp_path)
    save(protector, tmp_path / "protector")
    pipeline = Compose(
        [
            LoadVolumed("image"),
            SALMd("image", tmp_path / "protector"),
            SaveVolumed("image", tmp_path / "piped", CREATED),
        ]
    )
    items = [{"image": str(folder), "label": label} for label, folder in folders.items()]
    loader = DataLoader(
        Dataset(items, pipeline), num_workers=2, multiprocessing_context="spawn", batch_size=1
    )
    assert [tuple(batch["image"].shape) for batch in loader] == [(1, 1, 64, 64, 3)] * 2
    Vault(tmp_path / "vault").create()
    for label, folder in folders.items():
        outcome = protect_series(
            Job(
                source=label, name=label, paths=tuple(sorted(folder.iterdir())), label=label,
                protector=tmp_path / "protector", output=tmp_path / "job",
                vault=tmp_path / "vault", created=CREATED, site_key=PUBLIC_SITE_KEY,
            )
        )  # fmt: skip
        assert outcome.code == "", outcome.reason
    assert sorted(contents(tmp_path / "piped")) == sorted(contents(tmp_path / "job"))
    assert len(contents(tmp_path / "job")) == 6


def test_a_pipeline_pickles_as_a_path_and_works_in_a_cache(series, tmp_path):
    save(RANDOM, tmp_path / "protector")
    pipeline = Compose([LoadVolumed("image"), SALMd("image", tmp_path / "protector")])
    assert len(pickle.dumps(pipeline)) < 10_000  # a surrogate alone has 10 MB
    cached = CacheDataset([{"image": series}], pipeline, cache_rate=1.0, progress=False)
    straight = pickle.loads(pickle.dumps(pipeline))({"image": series})
    assert torch.equal(cached[0]["image"], straight["image"])


def test_keys_and_labels_may_be_missing_only_where_that_is_allowed(series):
    allowed = LoadVolumed(["image", "other"], allow_missing_keys=True)({"image": series})
    assert set(allowed) == {"image"}
    with pytest.raises(KeyError):
        LoadVolumed(["image", "other"])({"image": series})
    with pytest.raises(NoLabel):
        SALMd("image", Protector(plan=ProtectionPlan(), classes=("a", "b")))(allowed)


def test_uids_depend_on_settings_and_site_key(series):
    record = ProtectionRecord.from_json(SALM(RANDOM)(LoadVolume()(series)).meta["salm_record"])
    other = Protector(plan=ProtectionPlan(method="random", seed=1))
    again = ProtectionRecord.from_json(SALM(other)(LoadVolume()(series)).meta["salm_record"])
    keys = [(record, b"key"), (record, b"other"), (again, b"key")]
    uids = {Derivation(record=r, created=CREATED, site_key=k).uid("series", "1.2") for r, k in keys}
    assert len(uids) == 3
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)
