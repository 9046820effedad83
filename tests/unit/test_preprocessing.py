"""The user's own preprocessing: gradients come back through it, and only lawful ones are taken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.transforms import Compose, Orientation, Spacing

from salm_dicom.cli.main import main
from salm_dicom.errors import PlanError
from salm_dicom.learning import InputLoss, network_input
from salm_dicom.plan import ProtectionPlan
from salm_dicom.preprocessing import Preprocessing
from salm_dicom.protector import Protector, load, save
from salm_dicom.protector.fit import Study, fit
from salm_dicom.transforms import SALM, LoadVolume
from tests.synthetic import write_ct_series
from tests.unit.volumes import AFFINE, phantom_volume, untrained_protector

WHOLE = {"slices": 8, "rows": 64, "columns": 64}
WINDOW = {
    "_target_": "ScaleIntensityRange", "a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1,
    "clip": True,
}  # fmt: skip
UPRIGHT = {"_target_": "Orientation", "axcodes": "RAS", "labels": None}
COARSE = {"_target_": "Spacing", "pixdim": [1.5, 1.5, 2.0]}
CROP = {"_target_": "CropForeground", "allow_smaller": True}


def text(*steps: dict[str, Any]) -> str:
    return json.dumps(steps)


def through(*steps: dict[str, Any]) -> Preprocessing:
    found = Preprocessing.of(text(*steps), AFFINE)
    assert found is not None
    return found


def delta_of(protector: Protector, **recipe: Any) -> np.ndarray:
    volume = phantom_volume(**WHOLE | recipe)
    return protector.apply(volume, series_uid="1.2.3", label="chest").delta


@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_the_window_as_a_transform_is_the_window(extent):
    plain = delta_of(untrained_protector(extent=extent))
    asked = delta_of(untrained_protector(extent=extent, preprocessing=text(WINDOW)))
    assert np.count_nonzero(plain)
    assert (plain == asked).mean() > 0.999


@pytest.mark.parametrize(
    ("extent", "steps"),
    [
        ("slice", (WINDOW, {"_target_": "Resize", "spatial_size": [16, 16, 1]})),
        ("slice", (UPRIGHT, COARSE, WINDOW)),
        ("volume", (UPRIGHT, COARSE, WINDOW, CROP)),
        ("volume", ({"_target_": "NormalizeIntensity"}, {"_target_": "Flip", "spatial_axis": 0})),
    ],
)
def test_gradients_come_back_to_the_native_grid_and_every_law_holds(extent, steps):
    protector = untrained_protector(extent=extent, preprocessing=text(*steps))
    volume = phantom_volume(**WHOLE)
    found = protector.apply(volume, series_uid="1.2.3", label="chest")
    record, delta = found.record, found.delta.astype(int)
    assert 0 < np.abs(delta).max() <= record.budget_stored
    assert 0 < record.changed_share <= record.rho + 1e-3  # rounded up in every slice
    assert not delta.reshape(len(delta), -1).sum(1).any()
    inside = np.stack([found.outline.at(index) for index in range(len(delta))])
    assert not delta[~inside].any()
    assert (delta != delta_of(untrained_protector(extent=extent))).any()
    again = protector.apply(volume, series_uid="1.2.3", label="chest")
    assert np.array_equal(again.delta, found.delta)


def test_a_volume_is_seen_as_the_transforms_give_it_to_anybody(tmp_path):
    image = LoadVolume()(write_ct_series(tmp_path / "s", slices=6, rows=32, columns=40)[0].parent)
    wanted = Compose([Orientation("RAS", labels=None), Spacing((1.5, 1.5, 2.0))])(image)
    seen = Preprocessing(text(UPRIGHT, COARSE), np.asarray(image.affine))
    values = image.as_tensor().permute(0, 3, 2, 1)[None]
    assert torch.equal(seen(values)[0].permute(0, 3, 2, 1), wanted.as_tensor())


def test_a_gradient_is_that_of_the_loss():
    weights = torch.rand((1, 1, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    loss = InputLoss(
        lambda seen: (weights * seen**2).sum(), torch.tensor(1.0), torch.tensor(-1024.0),
        (-160.0, 240.0), (8, 16, 16), through(UPRIGHT, COARSE, WINDOW),
    )  # fmt: skip
    stored = torch.from_numpy(phantom_volume(**WHOLE).pixels.values.astype(np.float32))[None, None]
    leaf = stored.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(leaf), leaf)
    at = int(slope.abs().argmax())
    step = torch.zeros_like(stored)
    step.view(-1)[at] = 8.0
    measured = (loss(stored + step) - loss(stored - step)) / 16
    assert float(measured) == pytest.approx(float(slope.flatten()[at]), rel=0.05)
    assert loss.among(stored, torch.tensor([0])) is None


def test_images_that_come_out_in_many_sizes_are_resized():
    rng = np.random.default_rng(0)
    values = torch.zeros((2, 1, 40, 40))
    values[0, 0, 5:15, 5:30] = torch.from_numpy(rng.random((10, 25)))
    values[1, 0, 20:38, 2:9] = torch.from_numpy(rng.random((18, 7)))
    seen = network_input(
        values, torch.tensor(1.0), torch.tensor(0.0), (0.0, 1.0), (8, 8), through(CROP)
    )
    assert seen.shape == (2, 1, 8, 8)
    assert (seen.flatten(1).mean(1) > 0.3).all()  # nothing but what was not 0


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "no list of transforms"),
        ('{"_target_": "Spacing"}', "no list of transforms"),
        ('[{"pixdim": [1, 1, 1]}]', "has no _target_"),
        ("[1]", "has no _target_"),
    ],
)
def test_a_plan_takes_a_list_of_transforms_only(steps, message):
    with pytest.raises(PlanError, match=message):
        ProtectionPlan(preprocessing=steps)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"_target_": "Magic"}, "names 'Magic'"),
        ({"_target_": "os.system", "command": "true"}, "names 'os.system'"),
        ({"_target_": "SaveImage"}, "names 'SaveImage'"),
        ({"_target_": "LoadImage"}, "names 'LoadImage'"),
        ({"_target_": "Lambda", "func": "print"}, "names 'Lambda'"),
        ({"_target_": "Spacingd", "keys": "image"}, "Spacing takes an image as it is"),
        ({"_target_": "RandFlip"}, "is random"),
        ({"_target_": "Spacing", "spacing": 1}, r"does not take \['spacing'\] \(TypeError\)"),
    ],
)
def test_only_transforms_of_single_images_that_are_not_random_are_taken(step, message):
    with pytest.raises(PlanError, match=message):
        delta_of(untrained_protector(preprocessing=text(step)))


@pytest.mark.parametrize(
    ("extent", "step", "message"),
    [
        ("volume", {"_target_": "HistogramNormalize"}, "HistogramNormalize gives no gradient"),
        ("volume", COARSE | {"mode": 1}, "Spacing gives no gradient"),
        ("volume", {"_target_": "Resize", "spatial_size": [4, 4]}, "Resize fails on an image"),
        ("slice", {"_target_": "Resize", "spatial_size": [8, 8, 8]}, "use extent volume"),
        (
            "volume",
            {"_target_": "GridPatch", "patch_size": [8, 8, 4]},
            "GridPatch does not give one image",
        ),
    ],
)
def test_transforms_that_do_not_lead_back_are_refused(extent, step, message):
    with pytest.raises(PlanError, match=message):
        delta_of(untrained_protector(extent=extent, preprocessing=text(step)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"objective": "segmentation"}, "moves images and not their masks"),
        ({"method": "stable"}, "stable does not look through preprocessing"),
        ({"method": "random"}, "random does not look through preprocessing"),
        ({"method": "one_sided"}, "one_sided does not look through preprocessing"),
    ],
)
def test_what_does_not_look_through_it_is_refused(more, message):
    with pytest.raises(PlanError, match=message):
        ProtectionPlan(preprocessing=text(WINDOW), **more)


@pytest.mark.parametrize("extent", ["slice", "volume"])
def test_a_fit_sees_through_it_and_a_protector_keeps_it(tmp_path, extent):
    plan = ProtectionPlan(
        preprocessing=text(UPRIGHT, COARSE, WINDOW), extent=extent, slice_size=(16, 16),
        volume_size=(4, 16, 16), rounds=2, steps=2, batches=3,
    )  # fmt: skip
    studies = [
        Study(load=lambda n=n: phantom_volume(**WHOLE, seed=n), label="ab"[n % 2]) for n in range(4)
    ]
    fitted = fit(studies, plan, tmp_path)
    other = fit(studies, replace(plan, preprocessing=""), tmp_path)
    assert fitted.digest != other.digest
    for name in fitted.surrogates:
        assert fitted.surrogates[name].digest != other.surrogates[name].digest
    save(fitted, tmp_path / "protector")
    again = load(tmp_path / "protector")
    volume = phantom_volume(**WHOLE)
    first, second = (one.apply(volume, series_uid="1", label="a").delta for one in (fitted, again))
    assert np.array_equal(first, second)


def test_the_command_line_and_a_pipeline_do_the_same(tmp_path):
    source = tmp_path / "export"
    for number in range(4):
        write_ct_series(
            source / f"{number}", slices=4, rows=48, columns=48, patient_id=f"P{number}",
            seed=number,
        )  # fmt: skip
    (tmp_path / "labels.csv").write_text("key,label\n0,a\n1,b\n2,a\n3,b\n")
    steps = tmp_path / "steps.json"
    steps.write_text(json.dumps({"_target_": "Compose", "transforms": [UPRIGHT, COARSE, WINDOW]}))
    words = [
        "fit", source, "--labels", tmp_path / "labels.csv", "--labels-by=path", "-o",
        tmp_path / "protector", "--preprocessing", steps, "--extent=volume", "--rounds=1",
        "--steps=2", "--volume-size", 4, 16, 16, "--slice-size", 16, 16, "--jobs=1",
        "--progress=none",
    ]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    found = load(tmp_path / "protector")
    assert json.loads(found.plan.preprocessing)["transforms"][1] == COARSE
    image = LoadVolume()(source / "0")
    assert not torch.equal(SALM(tmp_path / "protector")(image, "a"), image)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "is no JSON"),
        (b'[{"_target_": "RandFlip"}]', "is random"),
        (b"\xff\xfe\x00", "the file is no text in UTF-8"),
    ],
)
def test_a_wrong_file_is_one_sentence_and_exit_2(tmp_path: Path, content, message):
    write_ct_series(tmp_path / "export" / "0", slices=2, rows=32, columns=32)
    (tmp_path / "labels.csv").write_text("key,label\n0,a\n")
    (tmp_path / "steps.json").write_bytes(content)
    words = [
        "fit", tmp_path / "export", "--labels", tmp_path / "labels.csv", "--labels-by=path", "-o",
        tmp_path / "p", "--preprocessing", tmp_path / "steps.json", "--jobs=1",
    ]  # fmt: skip
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "p").exists()
