"""An audit of real radiographs: it tells a protection that is there from a control that is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.command import run
from tests.radiographs import write_radiographs

PATIENTS, EACH = 30, 6
QUICK = (
    "--victims=convnet", "--seeds=2", "--epochs=10", "--size=28", "--countermeasures=none",
    "--coverage=50,100", "--intensity-range", 0, 255, "--progress=none", "--labels-by=patient",
)  # fmt: skip


def radiographs(folder: Path, data: Path) -> Path:
    """Write PneumoniaMNIST as series of six images of one label, and return the labels file."""
    raw = np.load(data / "pneumoniamnist" / "pneumoniamnist.npz")
    images, labels = raw["train_images"], raw["train_labels"][:, 0]
    pictures = {name: images[labels == n] for n, name in enumerate(("normal", "pneumonia"))}
    return write_radiographs(folder, pictures, PATIENTS, EACH)


@pytest.mark.slow
def test_a_planted_protection_is_found_and_the_random_control_is_not_called_one(tmp_path, shared):
    export = tmp_path / "export"
    labels = ["--labels", radiographs(export, shared / "data"), "--labels-by=patient"]
    # class-wise squares of +-100 of 255 stored units: nobody would share that, victims learn it
    methods = {"planted": ["--method=patches", "--epsilon=100/255"], "control": ["--method=random"]}
    found = {}
    for name, method in methods.items():
        out, document = tmp_path / name, tmp_path / f"{name}.json"
        settings = ["--intensity-range", 0, 255, "--progress=none", "-j1"]
        done = run("protect", export, "-o", out, *labels, *method, *settings)
        assert done.exit_code == 0, done.output
        shutil.rmtree(out.with_name(f"{name}.vault"))
        (out / "manifest.json").write_text("{}")  # nothing but the images is believed
        audit = ["audit", export, out, *labels, *QUICK, "--json", document, "--require=0.6"]
        found[name] = run(*audit), json.loads(document.read_text())
    planted, control = found["planted"], found["control"]
    assert control[0].exit_code == 5, control[0].output
    assert "not protected" in control[0].output
    assert "\n      protected" not in control[0].output
    (none, *_) = control[1]["countermeasures"]
    assert none["clean"]["value"] > 0.8
    assert none["protection"]["high"] < 0.3
    (none, *_) = planted[1]["countermeasures"]
    assert none["protection"]["value"] > 0.6, planted[0].output
    assert none["protection"]["low"] > 0.4
    assert planted[1]["coverage"][1]["protection"]["value"] < 0.5
