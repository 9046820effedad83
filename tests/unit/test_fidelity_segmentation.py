"""Row 10: any segmentation model by its path, and Dice and volume of what it finds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from monai.networks.nets import UNet
from torch import nn

from salm_dicom.cli.main import main
from salm_dicom.errors import PlanError, Unmeasurable
from salm_dicom.fidelity.models import load_segmenter
from salm_dicom.fidelity.segmentation import segmentation
from tests.subjects import body, changed, square


class Bright(nn.Module):
    """Finds what is brighter than 100 HU: a model whose every answer is known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - 100.0


class Slices(nn.Module):
    """Takes no volumes; finds what is brighter than 100 HU, after a convolution in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.plane = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.plane.weight.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
            self.plane.bias.copy_(torch.tensor([100.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.plane(x)


def script(module: nn.Module, path):
    torch.jit.script(module).save(str(path))
    return path


def bright(slices: int = 2):
    """Return a subject with a square of 20 x 20 voxels of 200 HU in every slice."""
    subject = body(slices=slices, noise=0.0)
    where = sum(square(subject, 20, (64, 64), index) for index in range(slices)) > 0
    stored = np.where(where, 1224, subject.pixels.values).astype(np.int16)
    return replace(subject, pixels=replace(subject.pixels, values=stored), after=stored)


def values(subject) -> dict[str, float]:
    return {f"{one.name} {one.where}": one.value for one in segmentation(subject)}


@pytest.mark.parametrize("module", [Bright, Slices])
def test_a_torchscript_model_of_volumes_or_of_slices_finds_what_it_finds(tmp_path, module):
    subject = replace(bright(), model=load_segmenter(script(module(), tmp_path / "model.ts")))
    assert values(subject) == {"dice label 1": 1.0, "segment_volume label 1": 0.0}
    lost = -150 * square(subject, 10, (59, 59), 0)  # a quarter of one of two squares
    assert values(changed(subject, lost)) == {
        "dice label 1": pytest.approx(2 * 700 / (800 + 700)),
        "segment_volume label 1": pytest.approx(12.5),
    }


def test_what_only_the_protected_volume_has_is_found_as_well(tmp_path):
    subject = replace(bright(), model=load_segmenter(script(Bright(), tmp_path / "model.ts")))
    more = 200 * square(subject, 4, (90, 90), 1)
    found = values(changed(subject, more))
    assert found["segment_volume label 1"] == pytest.approx(100 * 16 / 800)
    nothing = replace(body(noise=0.0), model=subject.model)
    with pytest.raises(Unmeasurable, match="finds nothing"):
        list(segmentation(nothing))
    (dice, _) = segmentation(changed(nothing, 200 * square(nothing, 4, (64, 64))))
    assert dice.value == 0.0


def bundle(folder, **more):
    """Write a MONAI bundle of a small UNet with fixed weights, as the model zoo lays one out."""
    network = {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2,
        "channels": [4, 8], "strides": [2],
    }  # fmt: skip
    config = {
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "imports": ["$import torch"],
        "network_def": network,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {
                    "_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -160,
                    "a_max": 240, "b_min": 0, "b_max": 1, "clip": True,
                },
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer", "roi_size": [32, 32, 4], "overlap": 0.25,
        },
        **more,
    }  # fmt: skip
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    made = UNet(**{k: v for k, v in network.items() if k != "_target_"})
    torch.save(made.state_dict(), folder / "models" / "model.pt")
    return folder


def test_a_monai_bundle_runs_its_preprocessing_network_and_inferer(tmp_path):
    subject = replace(
        body(slices=4, size=64),
        model=load_segmenter(bundle(tmp_path / "bundle")),
        affine=np.diag([-1.0, -1.0, 2.0, 1.0]),
    )
    labels = subject.model(
        np.stack([subject.source_at(index) for index in range(4)]), subject.affine
    )
    assert labels.shape == (64, 64, 4)  # the model's grid: x, y, z
    assert set(np.unique(labels)) == {0, 1}
    assert values(subject)["dice label 1"] == 1.0
    noise = np.random.default_rng(1).normal(size=subject.mask.shape)
    dice = [values(changed(subject, size * noise))["dice label 1"] for size in (5, 40, 200)]
    assert dice == sorted(dice, reverse=True)
    assert dice[-1] < 0.99


def test_a_model_that_is_none_is_refused_without_quoting_it(tmp_path):
    (tmp_path / "text.ts").write_text("Patient Smith")
    for path in (tmp_path / "nowhere.ts", tmp_path / "text.ts"):
        with pytest.raises(PlanError, match=r"cannot be loaded \(\w+\)") as refused:
            load_segmenter(path)
        assert "Smith" not in str(refused.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlanError, match=r"inference\.json"):
        load_segmenter(tmp_path / "empty")
    folder = bundle(tmp_path / "bundle", network_def={"_target_": "NoSuchNetwork"})
    with pytest.raises(PlanError, match="cannot be loaded"):
        load_segmenter(folder)


def test_a_model_that_fails_costs_its_row_and_not_the_run(tmp_path):
    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(7, -1, 13)

    subject = replace(body(), model=load_segmenter(script(Wrong(), tmp_path / "wrong.ts")))
    with pytest.raises(Unmeasurable, match="the model fails on this volume"):
        list(segmentation(subject))
    with pytest.raises(Unmeasurable, match="--model"):
        list(segmentation(body()))


def test_verify_takes_a_model_and_says_when_none_was_named(export, tmp_path):
    run = CliRunner().invoke
    out = str(tmp_path / "out")
    words = ["protect", str(export), "-o", out, "--method=random", "--progress=none", "-j1"]
    assert run(main, words).exit_code == 0
    path = script(Bright(), tmp_path / "model.ts")
    verify = ["verify", str(export), out, "--progress=none", "--rows=10"]
    found = run(main, [*verify, "--json", "--model", str(path)])
    row = json.loads(found.stdout.splitlines()[0])
    assert {one["name"] for one in row["checks"]} == {"psnr", "ssim", "dice", "segment_volume"}
    assert "row 10 not measured: no model was named" in run(main, verify).output
    assert run(main, [*verify, "--model", str(tmp_path / "none")]).exit_code == 2
