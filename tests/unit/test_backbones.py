"""Victims that begin with weights from elsewhere: what they take over, and what they then learn."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from monai.networks.nets.densenet import DenseNet
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.audit import SEGMENTERS, VICTIMS, Images, Trial, trial
from salm_dicom.audit.backbones import begin
from salm_dicom.audit.countermeasures import COUNTERMEASURES, WITH_WEIGHTS
from salm_dicom.errors import PlanError
from salm_dicom.victims import build_victim
from tests.command import run
from tests.synthetic import write_ct_series

SIDE = 28
QUICK = ("--victims=convnet", "--seeds=1", "--epochs=2", "--countermeasures=none", "--coverage=100",
         "--size=32", "--slices=2", "--progress=none", "--labels-by=patient")  # fmt: skip


def discs(count: int, seed: int, of_label: float, board: float = 0.0) -> Images:
    """Return noisy images of a disc in one of two places, and a mark of the same label.

    Parameters
    ----------
    of_label, board
        How bright the disc is, and a chequered pattern that says the label, too.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    place = torch.arange(SIDE)
    disc = ((place[:, None] - 14) ** 2 + (place - 9) ** 2 < 25).float()
    discs = torch.where(labels.bool()[:, None, None], disc, disc.flip(1))
    chequered = (place[:, None] + place) % 2 * 2.0 - 1
    pixels = 0.4 + 0.05 * torch.randn((count, SIDE, SIDE), generator=rng) + of_label * discs
    pixels += board * chequered * (2.0 * labels - 1)[:, None, None]
    return Images(pixels=pixels[:, None].clamp(0, 1), labels=labels)


def state_of(name: str, outputs: int, size: tuple[int, ...] = (SIDE, SIDE)) -> dict[str, Tensor]:
    """Return what MONAI's network of a victim holds."""
    network = build_victim(name, outputs, size, 7)
    return getattr(network, "network", network).state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network that tells discs apart, of images without a mark."""
    folder = tmp_path_factory.mktemp("weights")
    network = build_victim("convnet", 2, (SIDE, SIDE), 3)
    images = discs(256, 11, 0.15)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(8):
        for chosen in torch.arange(256).split(32):
            optimiser.zero_grad()
            found = network(images.pixels[chosen])
            functional.cross_entropy(found, images.labels[chosen]).backward()
            optimiser.step()
    save_file(network.state_dict(), folder / "convnet.safetensors")
    return folder


def attacked(weights: Path, countermeasure: str) -> Trial:
    """Return what a victim learns of images whose mark is seen far better than their disc."""
    marked, validation = (discs(count, count, 0.03, board=0.3) for count in (160, 40))
    return trial(
        "convnet", marked, validation=validation, weights=weights,
        clean_validation=discs(40, 2, 0.03), test=discs(100, 4, 0.03), seed=5, epochs=6,
        countermeasure=countermeasure,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*VICTIMS, *SEGMENTERS])
def test_a_victim_takes_all_but_its_last_layer_whatever_the_number_of_outputs(name, tmp_path):
    size = (32, 32)
    state = state_of(name, 6, size)
    save_file(state, tmp_path / f"{name}.safetensors")
    network = build_victim(name, 3, size, 0)
    before = {k: v.clone() for k, v in getattr(network, "network", network).state_dict().items()}
    last = begin(network, name, tmp_path, 3, size)
    after = getattr(network, "network", network).state_dict()
    own = [k for k, v in after.items() if v.shape != state[k].shape]
    assert 1 <= len(own) <= 2 * len(last)
    assert sum(after[k].numel() for k in own) == sum(one.numel() for one in last)
    for key, value in after.items():
        assert torch.equal(value, before[key] if key in own else state[key])
    # the last layer is what the output comes from: nothing else may be left without weights
    assert {one.shape[0] for one in last} <= {3} or name in SEGMENTERS


def test_a_network_for_colour_sees_a_grey_image_as_it_would_see_it_three_times(tmp_path):
    given = {"init_features": 16, "growth_rate": 8, "block_config": (3, 3, 3)}
    colour = DenseNet(spatial_dims=2, in_channels=3, out_channels=2, **given).eval()
    save_file(colour.state_dict(), tmp_path / "densenet-small.safetensors")
    network = build_victim("densenet-small", 2, (32, 32), 0).eval()
    last = begin(network, "densenet-small", tmp_path, 2, (32, 32))
    with torch.no_grad():
        for mine, other in zip(last, [colour.class_layers.out.weight, colour.class_layers.out.bias],
                               strict=True):  # fmt: skip
            mine.copy_(other)
        image = torch.rand(2, 1, 32, 32)
        assert torch.allclose(network(image), colour(image.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("countermeasure", WITH_WEIGHTS)
def test_what_learns_is_all_of_the_network_or_the_last_layer(weights, countermeasure, monkeypatch):
    built: list[nn.Module] = []

    def kept(*given: object) -> nn.Module:
        built.append(build_victim(*given))
        return built[-1]

    save_file(state_of("resnet-10", 4), weights / "resnet-10.safetensors")
    monkeypatch.setattr(import_module("salm_dicom.audit.trial"), "build_victim", kept)
    images = discs(40, 0, 0.15)
    trial("resnet-10", images, validation=images, clean_validation=images, test=images, seed=1,
          epochs=1, countermeasure=countermeasure, weights=weights)  # fmt: skip
    given = load_file(weights / "resnet-10.safetensors")
    after = built[0].state_dict()
    same = {key for key, value in after.items() if torch.equal(value, given[key])}
    if countermeasure == "frozen":  # running means, too
        assert same == set(after) - {"fc.weight", "fc.bias"}
    else:
        assert not {key for key in same if "weight" in key or "running" in key}


def test_a_frozen_backbone_that_knows_the_anatomy_does_not_fall_for_a_mark(weights):
    scratch, frozen = attacked(weights, "none"), attacked(weights, "frozen")
    assert scratch.train > 0.95
    assert scratch.last < 0.8
    assert frozen.last > max(0.9, scratch.last + 0.15)


def test_a_slow_victim_learns_at_a_tenth_of_the_rate():
    assert COUNTERMEASURES["slow"].rate == pytest.approx(COUNTERMEASURES["none"].rate / 10)
    images = discs(64, 0, 0.15)
    known = {"validation": images, "clean_validation": images, "test": images, "seed": 1}
    usual, slow = (
        trial("convnet", images, **known, epochs=2, countermeasure=name)
        for name in ("none", "slow")
    )
    assert usual.train > slow.train


def test_weights_of_another_network_are_refused_with_what_is_missing(tmp_path):
    save_file(state_of("resnet-10", 2), tmp_path / "densenet-small.safetensors")
    network = build_victim("densenet-small", 2, (SIDE, SIDE), 0)
    with pytest.raises(PlanError, match=r"of another network.*features\.conv0\.weight.*and \d+ mo"):
        begin(network, "densenet-small", tmp_path, 2, (SIDE, SIDE))
    state = state_of("densenet-small", 2)
    state["features.conv0.weight"] = torch.zeros(16, 2, 7, 7)
    save_file(state, tmp_path / "densenet-small.safetensors")
    with pytest.raises(PlanError, match=r"1 are missing.*\(found \(16, 2, 7, 7\)\)"):
        begin(network, "densenet-small", tmp_path, 2, (SIDE, SIDE))


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"PK", "cannot be read")])
def test_weights_that_are_not_there_or_not_safetensors_are_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "convnet.safetensors").write_bytes(content)
    network = build_victim("convnet", 2, (SIDE, SIDE), 0)
    with pytest.raises(PlanError, match=said):
        begin(network, "convnet", tmp_path, 2, (SIDE, SIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of 20 patients, its random control, labels, and weights for 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("audit")
    rows = ["key,label"]
    for number in range(20):
        write_ct_series(
            folder / "export" / str(number), patient_id=f"P{number}", slices=1, rows=32,
            columns=32, lungs=bool(number % 2), seed=number,
        )  # fmt: skip
        rows.append(f"P{number},{number % 2}")
    (folder / "labels.csv").write_text("\n".join(rows))
    settings = ("--method=random", "--progress=none", "-j1")
    assert run("protect", folder / "export", "-o", folder / "out", *settings).exit_code == 0
    (folder / "weights").mkdir()
    save_file(state_of("convnet", 5, (32, 32)), folder / "weights" / "convnet.safetensors")
    return folder


def test_an_audit_with_weights_has_two_rows_more_and_says_which_weights(folder, tmp_path):
    document = tmp_path / "audit.json"
    places = (folder / "export", folder / "out", "--labels", folder / "labels.csv")
    result = run("audit", *places, *QUICK, "--weights", folder / "weights", "--json", document,
                 "-j2")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "pre-trained weights, of which only the last layer learns" in result.output
    assert "frozen or pre-trained backbone" not in result.output
    found = json.loads(document.read_text())
    assert [row["countermeasure"] for row in found["countermeasures"]] == [
        "none", "clean_choice", "pretrained", "frozen",
    ]  # fmt: skip
    assert list(found["settings"]["weights"]) == ["convnet"]
    assert len(found["settings"]["weights"]["convnet"]) == 64
    assert str(folder) not in document.read_text()
    without = run("audit", *places, *QUICK, "--epochs=1")
    assert "Not measured: frozen or pre-trained backbone (needs weights" in without.output


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--countermeasures=frozen"], "needs weights that victims begin with"),
        (["--weights={folder}/weights", "--victims=resnet-10"], "no resnet-10.safetensors"),
        (["--weights={folder}/none"], "no convnet.safetensors"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(folder, more, said):
    places = (folder / "export", folder / "out", "--labels", folder / "labels.csv")
    result = run("audit", *places, *QUICK, *(part.format(folder=folder) for part in more))
    assert result.exit_code == 2
    assert said in result.output
