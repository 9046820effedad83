"""MONAI pipelines on many kinds of series: oblique affines, extents, codecs, inference mode."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import (
    CenterSpatialCrop,
    Compose,
    Flip,
    Orientation,
    Resize,
    Rotate90,
    ScaleIntensity,
    Spacing,
    SpatialCrop,
)
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from salm_dicom.batch.job import Job, protect_series
from salm_dicom.batch.vault import Vault
from salm_dicom.dicom.derive import PUBLIC_SITE_KEY
from salm_dicom.errors import MismatchError
from salm_dicom.protector import Protector, loaded, save
from salm_dicom.transforms import SALM, LoadVolume, LoadVolumed, SALMd, SaveVolume, SaveVolumed
from tests.synthetic import write_ct_series
from tests.unit.volumes import untrained_protector

CREATED = datetime(2026, 1, 2, tzinfo=UTC)
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (0.8, 0.6, 0, -0.36, 0.48, 0.8),
}
RECIPES = {
    "signed 16 bit": {},
    "12 bit with padding": {"bits_stored": 12, "signed": False, "padding": 0},
    "padding in tissue": {"padding": 1064},
    "8 bit": {"bits_stored": 8, "signed": False, "slope": 8.0},
    "slope -1": {"bits_stored": 12, "signed": False, "slope": -1.0, "intercept": 3071.0},
    "slope 0.5": {"slope": 0.5},
    "MR": {"modality": "MR", "signed": False, "bits_stored": 12},
    "RLE": {"transfer_syntax": RLELossless},
    "JPEG-LS": {"transfer_syntax": JPEGLSLossless},
    "JPEG 2000": {"transfer_syntax": JPEG2000Lossless},
}


def label_for(protector: Protector) -> str | None:
    return "chest" if protector.plan.needs_surrogate else None


def written(folder: Path, **recipe: object) -> Path:
    write_ct_series(folder, **{"slices": 4, "rows": 48, "columns": 56} | recipe)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def pixels(folder: Path) -> np.ndarray:
    """Return the stored values of a series, (slices, rows, columns), in the order of the files."""
    return np.stack([pydicom.dcmread(path).pixel_array for path in sorted(folder.iterdir())])


def protected(series: Path, **plan: object) -> tuple[Protector, torch.Tensor]:
    protector = untrained_protector(**{"epsilon": "8/255", "steps": 5, "step_size": 0.5} | plan)
    return protector, SALM(protector)(LoadVolume()(series), label_for(protector))


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_affine_is_that_of_the_header(tmp_path, name):
    series = written(tmp_path / "s", orientation=ORIENTATIONS[name], spacing_mm=2.5)
    image = LoadVolume()(series)
    assert tuple(image.shape) == (1, 56, 48, 4)
    for k, path in enumerate(sorted(series.iterdir())):
        header = pydicom.dcmread(path)
        row, column = np.array(header.ImageOrientationPatient).reshape(2, 3)
        between_rows, between_columns = header.PixelSpacing
        for i, j in ((0, 0), (55, 0), (7, 47)):
            place = np.array(header.ImagePositionPatient, dtype=float)
            place += i * between_columns * row + j * between_rows * column
            found = image.affine.numpy() @ [i, j, k, 1.0]
            np.testing.assert_allclose(found[:3], place * [-1, -1, 1], atol=1e-4)
            slope, intercept = float(header.RescaleSlope), float(header.RescaleIntercept)
            assert float(image[0, i, j, k]) == header.pixel_array[j, i] * slope + intercept


def test_files_in_any_order_give_the_same_volume(tmp_path):
    series = written(tmp_path / "s")
    files = sorted(series.iterdir())
    image, shuffled = LoadVolume()(series), LoadVolume()([files[i] for i in (2, 0, 3, 1)])
    assert torch.equal(image, shuffled)
    assert torch.equal(image.affine, shuffled.affine)
    assert image.meta["salm_source"] == shuffled.meta["salm_source"]


def test_meta_holds_strings_and_numbers_only_besides_affines(tmp_path):
    _, image = protected(written(tmp_path / "s"))
    saved = SaveVolume(tmp_path / "out", CREATED)(image, "a")
    strange = {
        key: type(value)
        for key, value in saved.meta.items()
        if "affine" not in key and not isinstance(value, str | int | float)
    }
    assert strange == {}


@pytest.mark.parametrize("extent", ["slice", "volume"])
@pytest.mark.parametrize("method", ["random", "salm", "dense"])
def test_salm_changes_a_copy_and_neither_its_input_nor_its_meta(tmp_path, method, extent):
    image = LoadVolume()(written(tmp_path / "s"))
    values, affine, meta = image.clone(), image.affine.clone(), dict(image.meta)
    protector = untrained_protector(method=method, extent=extent)
    found = SALM(protector)(image, label_for(protector))
    assert torch.equal(image, values)
    assert torch.equal(image.affine, affine)
    assert set(image.meta) == set(meta)
    assert (found != image).any()
    assert torch.equal(found.affine, affine)


@pytest.mark.parametrize("method", ["random", "salm"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_pipeline_writes_the_bytes_of_a_batch_job(tmp_path, name, method):
    series = written(tmp_path / "s", **RECIPES[name])
    protector, image = protected(series, method=method)
    SaveVolume(tmp_path / "piped", CREATED)(image, "a")
    save(protector, tmp_path / "protector")
    Vault(tmp_path / "vault").create()
    outcome = protect_series(
        Job(
            source="a",
            name="a",
            paths=tuple(sorted(series.iterdir())),
            label=label_for(protector),
            protector=tmp_path / "protector",
            output=tmp_path / "job",
            vault=tmp_path / "vault",
            created=CREATED,
            site_key=PUBLIC_SITE_KEY,
        )
    )
    assert outcome.code == "", outcome.reason
    assert contents(tmp_path / "piped" / "a") == contents(tmp_path / "job" / "a")
    assert len(contents(tmp_path / "job" / "a")) == 4


MOVES = {
    "flip": lambda: [Flip(1)],
    "quarter turn": lambda: [Rotate90(1, (0, 2))],
    "half turn": lambda: [Rotate90(2, (0, 1)), Flip(2)],
    "RAS": lambda: [Orientation("RAS")],
    "SPL": lambda: [Orientation("SPL")],
}


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_moves_between_salm_and_save_are_undone_exactly(tmp_path, extent, move, orientation):
    series = written(tmp_path / "s", orientation=ORIENTATIONS[orientation])
    _, image = protected(series, extent=extent)
    SaveVolume(tmp_path / "straight", CREATED)(image, "a")
    SaveVolume(tmp_path / "moved", CREATED)(Compose(MOVES[move]())(image), "a")
    assert contents(tmp_path / "moved" / "a") == contents(tmp_path / "straight" / "a")


@pytest.mark.parametrize(
    "crop",
    [
        lambda: [SpatialCrop(roi_start=(5, 6, 1), roi_end=(50, 40, 3))],
        lambda: [CenterSpatialCrop((30, 20, 4)), Flip(0)],
        lambda: [Orientation("RAS"), SpatialCrop(roi_start=(5, 6, 0), roi_end=(50, 40, 3))],
    ],
)
def test_a_crop_keeps_the_protection_inside_and_the_source_outside(tmp_path, crop):
    series = written(tmp_path / "s")
    _, image = protected(series, method="random")
    steps = Compose(crop())
    SaveVolume(tmp_path / "out", CREATED)(image, "whole")
    SaveVolume(tmp_path / "out", CREATED)(steps(image), "cropped")
    marked = image.clone()
    marked[:] = 0
    covered = np.zeros(image.shape[1:], dtype=bool)
    inner = steps(marked + 1)
    corner = np.linalg.inv(image.affine.numpy()) @ inner.affine.numpy()
    ends = corner @ np.array([[0, 0, 0, 1], [*(n - 1 for n in inner.shape[1:]), 1]]).T
    first, last = (np.rint(f(ends[:3], axis=1)).astype(int) for f in (np.min, np.max))
    covered[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = True
    covered = covered.transpose(2, 1, 0)
    source, whole, cropped = (
        pixels(folder)
        for folder in (series, tmp_path / "out" / "whole", tmp_path / "out" / "cropped")
    )
    assert covered.sum() == np.prod(inner.shape)
    np.testing.assert_array_equal(cropped, np.where(covered, whole, source))


@pytest.mark.parametrize(
    "spoil",
    [
        Spacing((1.0, 1.0, 2.0)),
        Resize((28, 24, 4)),
        ScaleIntensity(),
        lambda image: image.round(decimals=-1),
    ],
)
def test_what_cannot_be_put_back_exactly_is_refused_and_leaves_no_file(tmp_path, spoil):
    _, image = protected(written(tmp_path / "s"), method="random")
    with pytest.raises(MismatchError):
        SaveVolume(tmp_path / "out", CREATED)(spoil(image), "a")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_series_that_is_there_already_is_not_overwritten(tmp_path):
    _, image = protected(written(tmp_path / "s"), method="random")
    SaveVolume(tmp_path / "out", CREATED)(image, "a")
    before = contents(tmp_path / "out" / "a")
    with pytest.raises(MismatchError, match="never overwritten"):
        SaveVolume(tmp_path / "out", CREATED)(image, "a")
    assert contents(tmp_path / "out" / "a") == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_pipeline_works_where_gradients_are_switched_off(tmp_path, extent, mode):
    series = written(tmp_path / "s")
    _, wanted = protected(series, extent=extent)
    with mode():
        _, found = protected(series, extent=extent)
        SaveVolume(tmp_path / "out", CREATED)(found, "a")
    assert np.array_equal(found.numpy(), wanted.numpy())


def test_a_batch_of_a_loader_holds_protected_images(tmp_path):
    save(untrained_protector(), tmp_path / "protector")
    series = [written(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    pipeline = Compose([LoadVolumed("image"), SALMd("image", tmp_path / "protector")])
    items = [{"image": str(one), "label": "chest"} for one in series]
    (batch,) = DataLoader(Dataset(items, pipeline), batch_size=2, num_workers=0)
    assert tuple(batch["image"].shape) == (2, 1, 56, 48, 4)
    for index, one in enumerate(series):
        single = SALM(tmp_path / "protector")(LoadVolume()(one), "chest")
        assert torch.equal(batch["image"][index].as_tensor(), single.as_tensor())


def test_a_pipeline_stays_small_when_it_is_pickled_after_use(tmp_path):
    save(untrained_protector(), tmp_path / "protector")
    transform = SALM(tmp_path / "protector")
    transform(LoadVolume()(written(tmp_path / "s")), "chest")
    assert len(pickle.dumps(transform)) < 1000
    assert len(pickle.dumps(loaded(tmp_path / "protector"))) > 10_000


def test_missing_keys_are_passed_over_only_where_that_is_allowed(tmp_path):
    series = written(tmp_path / "s")
    _, image = protected(series, method="random")
    random = untrained_protector(method="random")
    arguments = {
        LoadVolumed: ({}, {"image": series}),
        SALMd: ({"protector": random}, {"image": LoadVolume()(series)}),
        SaveVolumed: ({"output": tmp_path / "out", "created": CREATED}, {"image": image}),
    }
    for transform, (settings, data) in arguments.items():
        allowed = transform(["image", "other"], allow_missing_keys=True, **settings)
        assert set(allowed(data)) == {"image"}
        with pytest.raises(KeyError):
            transform(["other"], **settings)(data)


def test_uncompressed_stays_uncompressed(tmp_path):
    _, image = protected(written(tmp_path / "s"), method="random")
    SaveVolume(tmp_path / "out", CREATED)(image, "a")
    for path in (tmp_path / "out" / "a").iterdir():
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
