"""--device: the network runs there, everything else where it was, and a UID says which kind."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from salm_dicom.audit import Images, trial
from salm_dicom.cli.main import main
from salm_dicom.errors import PlanError
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.protector.device import device_of
from salm_dicom.protector.surrogate import OnDevice
from tests.synthetic import write_ct_series


class Recording(nn.Module):
    """Notes where its input lies; has a weight that can be asked for its place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[str] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.device.type)
        return torch.zeros(len(images), 2)


def test_a_network_and_its_inputs_go_to_the_device_and_its_outputs_come_back():
    inner = Recording()
    placed = OnDevice(inner, "meta")  # the one device beside the CPU that every torch has
    images = torch.zeros(3, 1, 4, 4)
    assert placed(images).device == images.device
    assert inner.seen == ["meta"]
    assert inner.weight.device.type == "meta"


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:first", "cuda:-1", "", "cpu:0:1", "meta"])
def test_what_is_no_device_is_refused(asked):
    if asked == "cuda:" and torch.cuda.is_available():
        assert device_of(asked) == "cuda:0"
        return
    with pytest.raises(PlanError, match="device"):
        device_of(asked)


def test_a_device_that_is_not_there_is_named_with_what_there_is():
    with pytest.raises(PlanError, match=rf"cuda:{torch.cuda.device_count()} was asked for; torch"):
        device_of(f"cuda:{torch.cuda.device_count()}")


def test_auto_takes_what_there_is():
    assert device_of("auto") == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert device_of("cpu") == "cpu"


def test_new_uids_depend_on_the_kind_of_device_where_a_network_decides_the_pixels():
    fitted = Protector(plan=ProtectionPlan(method="salm"), classes=("a", "b"))
    on = {d: replace(fitted, device=d).digest_for("a") for d in ("cpu", "cuda:0", "cuda:1")}
    assert on["cpu"] == fitted.digest_for("a") != on["cuda:0"] == on["cuda:1"]
    drawn = Protector(plan=ProtectionPlan(method="random"))
    assert replace(drawn, device="cuda:0").digest_for(None) == drawn.digest_for(None)
    assert replace(fitted, device="cuda:0").digest == fitted.digest  # of what is saved


@pytest.mark.parametrize("command", ["protect", "fit"])
def test_a_missing_device_ends_a_command_before_it_writes(tmp_path, command):
    write_ct_series(tmp_path / "export")
    asked = [command, str(tmp_path / "export"), "-o", str(tmp_path / "out"), "--method=salm"]
    run = CliRunner().invoke(main, [*asked, "--device=cuda:99"])
    assert run.exit_code == 2
    assert "Use --device cpu" in run.output
    assert not (tmp_path / "out").exists()


def test_an_audit_asks_for_its_device_before_it_reads(tmp_path):
    asked = ["audit", str(tmp_path / "no"), str(tmp_path / "out"), "--labels", "labels.csv"]
    run = CliRunner().invoke(main, [*asked, "--device=cuda:99"])
    assert run.exit_code == 2
    assert "Use --device cpu" in run.output


def test_a_victim_learns_on_the_device_and_finds_the_same_on_one_of_the_same_kind(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    images = Images(pixels=torch.rand((24, 1, 28, 28), generator=rng), labels=torch.arange(24) % 2)
    known = {"validation": images, "clean_validation": images, "test": images, "seed": 0}
    placed: list[str] = []

    class Noting(OnDevice):
        def __init__(self, network: nn.Module, device: str) -> None:
            super().__init__(network, device)
            placed.append(device)

    monkeypatch.setattr(import_module("salm_dicom.audit.trial"), "OnDevice", Noting)
    one, other = (trial("convnet", images, **known, epochs=2, countermeasure="adversarial",
                        device=device) for device in ("cpu", "cpu:0"))  # fmt: skip
    assert one == other
    assert placed == ["cpu", "cpu:0"]


def test_a_method_without_a_network_asks_for_no_device(tmp_path):
    write_ct_series(tmp_path / "export")
    run = CliRunner().invoke(
        main,
        ["protect", str(tmp_path / "export"), "-o", str(tmp_path / "out"), "--method=random",
         "--jobs=1", "--device=cuda:99"],
    )  # fmt: skip
    assert run.exit_code == 0
