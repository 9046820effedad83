"""Masks in a MONAI pipeline: the label map that it carries decides as the files of a batch do."""

from __future__ import annotations

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flipd,
    LoadImaged,
    Orientationd,
    ResampleToMatchd,
    Rotate90d,
    Spacingd,
)

from salm_dicom.cli.main import main
from salm_dicom.dicom.series import read_series
from salm_dicom.errors import BadValue, MismatchError, NoLabel
from salm_dicom.foreground import near_edges
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask, Protector, load, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.transforms import SALM, LoadVolume, LoadVolumed, SALMd, VolumeReader
from tests.objects import write_segmentation
from tests.synthetic import write_ct_series

SPACING, SLICES = (0.75, 0.75), 4
PLAN = ProtectionPlan(
    objective="segmentation", mask="roi_band", band_mm=3.0, rounds=1, steps=2, slice_size=(32, 32)
)


def organ() -> np.ndarray:
    where = np.zeros((SLICES, 48, 64), bool)
    where[1:3, 18:30, 22:40] = True
    return where


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series, its mask as SEG and NIfTI, and protectors that know the class by either name."""
    folder = tmp_path_factory.mktemp("masks")
    files = write_ct_series(
        folder / "series", slices=SLICES, rows=48, columns=64, spacing_mm=2.5, lungs=False
    )
    write_segmentation(folder / "liver.dcm", files, organ().astype(np.uint8))
    volume = read_series(files).volume
    values = organ().transpose().astype(np.uint8)
    nib.save(nib.Nifti1Image(values, volume.affine), folder / "liver.nii.gz")
    for name in ("Liver", "label 1"):
        mask = Mask.of({name: organ()}, organ().shape)
        study = Study(load=lambda: volume, mask=lambda mask=mask: mask)
        save(fit([study], PLAN, folder), folder / name)
    return folder


def expected(case: Path, name: str) -> np.ndarray:
    """Return what the protector adds, HU, (columns, rows, slices)."""
    series = read_series(sorted((case / "series").iterdir()))
    mask = Mask.of({name: organ()}, organ().shape)
    found = load(case / name).apply(series.volume, series_uid=series.series_uid, label=mask)
    assert found.delta.any()
    return found.delta.transpose()


def change(out: dict, case: Path) -> np.ndarray:
    """Return what a pipeline changed, (columns, rows, slices)."""
    before = LoadVolume()(case / "series")
    return (out["image"] - before).numpy()[0]


def data(case: Path, mask: str) -> dict[str, str]:
    return {"image": str(case / "series"), "mask": str(case / mask)}


def test_a_seg_read_by_monai_gives_what_the_protector_gives(case):
    pipeline = Compose(
        [
            LoadVolumed("image"),
            LoadImaged("mask", reader="ITKReader", ensure_channel_first=True),
            # the file has the planes only that show something
            ResampleToMatchd("mask", key_dst="image", mode="nearest", padding_mode="zeros"),
            SALMd("image", case / "Liver", mask_key="mask", mask_classes={255: "Liver"}),
        ]
    )
    assert np.array_equal(change(pipeline(data(case, "liver.dcm")), case), expected(case, "Liver"))


@pytest.mark.parametrize(
    "moves",
    [
        [],
        [Flipd("mask", 2)],
        [Rotate90d("mask", 1, spatial_axes=(0, 1))],
        [Orientationd("mask", "PIR", labels=None)],
    ],
)
def test_a_nifti_mask_is_put_on_the_image_however_it_was_turned(case, moves):
    pipeline = Compose(
        [
            LoadImaged("image", reader=VolumeReader, ensure_channel_first=True),
            LoadImaged("mask", ensure_channel_first=True),
            *moves,
            SALMd("image", case / "label 1", mask_key="mask"),
        ]
    )
    out = pipeline(data(case, "liver.nii.gz"))
    found = change(out, case)
    assert np.array_equal(found, expected(case, "label 1"))
    near = near_edges(organ().astype(np.uint8), SPACING, PLAN.band_mm).transpose()
    assert not found[~near].any()
    assert out["mask"].shape[1:].numel() == organ().size


def test_an_image_that_was_turned_with_its_mask_is_protected_too(case):
    both = ("image", "mask")
    pipeline = Compose(
        [
            LoadVolumed("image"),
            LoadImaged("mask", ensure_channel_first=True),
            Orientationd(both, "LPI", labels=None),
            SALMd("image", case / "label 1", mask_key="mask"),
            Orientationd("image", "RAS", labels=None),
        ]
    )
    out = pipeline(data(case, "liver.nii.gz"))
    before = Compose([LoadVolumed("image"), Orientationd("image", "RAS", labels=None)])(
        data(case, "")
    )
    found = (out["image"] - before["image"]).numpy()[0]
    assert found.any()
    marked = Orientationd("mask", "RAS", labels=None)(out)["mask"].numpy()[0] > 0
    near = near_edges(marked.transpose().astype(np.uint8), SPACING, PLAN.band_mm).transpose()
    assert not found[~near].any()


def test_a_mask_on_another_grid_is_refused_and_monai_brings_it_there(case):
    both = [LoadVolumed("image"), LoadImaged("mask", ensure_channel_first=True)]
    coarse = Spacingd("mask", (1.5, 1.5, 2.5), mode="nearest")
    salm = SALMd("image", case / "label 1", mask_key="mask")
    with pytest.raises(RuntimeError) as caught:
        Compose([*both, coarse, salm])(data(case, "liver.nii.gz"))
    assert isinstance(caught.value.__cause__, MismatchError)
    assert "ResampleToMatchd" in str(caught.value.__cause__)
    matched = ResampleToMatchd("mask", key_dst="image", mode="nearest")
    out = Compose([*both, coarse, matched, salm])(data(case, "liver.nii.gz"))
    assert change(out, case).any()


def test_masks_that_cannot_be_understood_are_refused_with_what_was_found(case):
    image = LoadVolume()(case / "series")
    salm = SALM(case / "label 1")
    mask = torch.zeros(1, 64, 48, SLICES)
    mask[0, 22:40, 18:30, 1:3] = 1
    assert np.array_equal((salm(image, mask=mask) - image).numpy()[0], expected(case, "label 1"))
    for wrong, kind, text in (
        (mask.repeat(2, 1, 1, 1), MismatchError, r"\(2, 64, 48, 4\); one label map"),
        (mask[:, :32], MismatchError, r"\(32, 48, 4\) voxels without an affine"),
        (mask * 0.5, BadValue, "no whole numbers"),
        (-mask, BadValue, "from 0"),
        (mask * 2, NoLabel, "none of the 1"),
        (MetaTensor(mask[:, :32], affine=image.affine), MismatchError, "does not cover all"),
        (None, NoLabel, "mask_key"),
    ):
        with pytest.raises(kind, match=text):
            salm(image, mask=wrong)


def test_a_transform_with_a_mask_works_in_workers(case):
    pipeline = Compose(
        [
            LoadVolumed("image"),
            LoadImaged("mask"),
            EnsureChannelFirstd("mask"),
            SALMd("image", case / "label 1", mask_key="mask"),
        ]
    )
    assert pickle.loads(pickle.dumps(pipeline.transforms[-1])).mask_key == "mask"
    items = [data(case, "liver.nii.gz")] * 2
    for batch in DataLoader(Dataset(items, pipeline), num_workers=1):
        assert np.array_equal(change({"image": batch["image"][0]}, case), expected(case, "label 1"))


def test_a_mask_is_not_looked_at_by_a_protector_that_needs_none(case):
    salm = SALMd("image", Protector(plan=ProtectionPlan(method="random")), mask_key="mask")
    image = LoadVolume()(case / "series")
    assert not torch.equal(salm({"image": image, "mask": "no mask"})["image"], image)


@pytest.mark.parametrize("band_mm", [1.0, 6.0])
def test_the_command_line_sets_the_reach_of_the_band(case, tmp_path, band_mm):
    settings = ["--objective=segmentation", "--mask=roi_band", "--rounds=1", "--steps=2", "-j1"]
    done = CliRunner().invoke(
        main,
        [
            "protect", str(case / "series"), "-o", str(tmp_path / "out"), "--progress=none",
            "--masks", str(case / "liver.dcm"), f"--band-mm={band_mm}", *settings,
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    before = read_series(sorted((case / "series").iterdir())).volume.pixels.values
    changed = read_series(files).volume.pixels.values != before
    near = near_edges(organ().astype(np.uint8), SPACING, band_mm)
    assert changed.any()
    assert not changed[~near].any()
    wider = near_edges(organ().astype(np.uint8), SPACING, 1.0)
    assert changed[~wider].any() == (band_mm > 1)


def test_a_band_without_reach_is_2(case, tmp_path):
    done = CliRunner().invoke(
        main,
        ["protect", str(case / "series"), "-o", str(tmp_path / "out"), "--band-mm=0",
         "--objective=segmentation", "--mask=roi_band", "--masks", str(case / "liver.dcm")],
    )  # fmt: skip
    assert done.exit_code == 2
    assert "band_mm is 0.0; millimetres above 0 are needed" in done.output
