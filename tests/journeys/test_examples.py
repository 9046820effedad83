"""The README's pipeline and every script in examples/ run as they stand."""

from __future__ import annotations

import ast
import json
import os
import runpy
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from salm_dicom import perturb
from salm_dicom.audit import VICTIMS
from salm_dicom.cli.main import main
from salm_dicom.dicom.series import read_series
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import save
from salm_dicom.protector.fit import Study, fit
from tests.synthetic import write_ct_series

ROOT = Path(__file__).parent.parent.parent
LABELS = {"axial": "a", "coronal": "b"}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with two series and a protector, as the README has them."""
    monkeypatch.chdir(tmp_path)
    studies = []
    for seed, (label, folder) in enumerate(LABELS.items()):
        paths = write_ct_series(tmp_path / folder, seed=seed, lungs=seed == 0, patient_id=label)
        studies.append(Study(label=label, load=lambda p=paths: read_series(p).volume))
    plan = ProtectionPlan(rounds=1, steps=2, slice_size=(32, 32))
    save(fit(studies, plan, tmp_path), tmp_path / "protector")
    (tmp_path / "export").mkdir()
    (tmp_path / "a").rename(tmp_path / "export" / "series")
    return tmp_path


def test_the_pipeline_of_the_readme_runs(place):
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 1
    exec(compile(blocks[0].split("```")[0], "README.md", "exec"), {})
    assert len(list((place / "shared").rglob("*.dcm"))) == 3


def test_protect_series_runs(place):
    example = runpy.run_path(str(ROOT / "examples" / "protect_series.py"))
    record = example["main"](place / "export" / "series", place / "out")
    assert record.largest_change_stored == 6
    assert len(list((place / "out").rglob("*.dcm"))) == 3


@pytest.mark.slow
def test_monai_pipeline_runs(place):
    example = runpy.run_path(str(ROOT / "examples" / "monai_pipeline.py"))
    folders = {str(place / "export" / "series"): "axial", str(place / "b"): "coronal"}
    assert example["main"](place / "protector", place / "out", folders) == 2
    assert len(list((place / "out").rglob("*.dcm"))) == 6


def test_pictures_are_those_of_the_tutorial(tmp_path):
    example = runpy.run_path(str(ROOT / "examples" / "pictures.py"))
    made = example["main"](
        ROOT / "salm_dicom" / "demo_data" / "export" / "ct_siemens_j2k", tmp_path
    )
    shown = sorted((ROOT / "docs" / "tutorials").glob("first-series-*.png"))
    assert sorted(path.name for path in made) == [path.name for path in shown]
    for one in shown:  # fonts and anti-aliasing may differ by a little, images may not
        with Image.open(one) as wanted, Image.open(tmp_path / one.name) as found:
            assert wanted.size == found.size
            pair = [np.asarray(image.convert("L"), dtype=float) for image in (wanted, found)]
        assert np.abs(pair[0] - pair[1]).mean() < 2, one.name


def test_train_on_protected_runs(place):
    example = runpy.run_path(str(ROOT / "examples" / "train_on_protected.py"))
    folders = {str(place / "export" / "series"): "axial", str(place / "b"): "coronal"}
    losses = example["main"](place / "protector", folders)
    assert len(losses) == 3
    assert losses[2] < losses[0]
    assert not list(place.rglob("shared"))


@pytest.mark.slow
def test_the_bundle_runs_by_its_command(place):
    config = ROOT / "examples" / "bundle.json"
    command = ["-m", "monai.bundle", "run", "--config_file", config, "--label", "axial"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=place, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "shared" in done.stdout
    assert len(list((place / "shared").rglob("*.dcm"))) == 3


def test_own_method_runs(place):
    example = runpy.run_path(str(ROOT / "examples" / "own_method.py"))
    try:
        record = example["main"](place / "export" / "series", place / "out")
    finally:
        perturb.METHODS.pop("stripes", None)
    assert (record.method, record.largest_change_stored) == ("stripes", 6)
    assert 0 < record.changed_share <= 0.2


@pytest.fixture
def audited(tmp_path) -> tuple[Path, Path, Path]:
    """An export of twenty patients with two labels, its protected copy, and the labels."""
    export, out, labels = tmp_path / "export", tmp_path / "out", tmp_path / "labels.csv"
    rows = ["key,label"]
    for seed in range(20):
        write_ct_series(
            export / f"{seed}", slices=2, rows=32, columns=32, patient_id=f"SYN{seed:03d}",
            seed=seed, lungs=seed % 2 == 0,
        )  # fmt: skip
        rows.append(f"SYN{seed:03d},{'chest' if seed % 2 == 0 else 'abdomen'}")
    labels.write_text("\n".join(rows))
    protect = ["protect", export, "-o", out, "--method=random", "-j1", "--progress=none"]
    assert CliRunner().invoke(main, [*map(str, protect)]).exit_code == 0
    return export, out, labels


def test_audit_export_runs(audited, tmp_path, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "audit_export.py"))
    settings = replace(example["QUICK"], epochs=2)
    done = example["main"](*audited, tmp_path / "plots", settings)
    assert len(done.found) == done.planned
    assert "20 series, 0 files left out" in capsys.readouterr().out
    assert (tmp_path / "plots" / "countermeasures.svg").is_file()


def test_own_victim_runs(audited, tmp_path):
    example = runpy.run_path(str(ROOT / "examples" / "own_victim.py"))
    try:
        done = example["main"](*audited, tmp_path / "plots", epochs=2)
    finally:
        VICTIMS.pop("perceptron", None)
    assert {one.spec.victim for one in done.found} == {"perceptron"}


def test_the_notebook_runs_cell_by_cell_and_each_last_value_can_be_shown():
    notebook = json.loads((ROOT / "examples" / "look.ipynb").read_text())
    names: dict[str, object] = {}
    shown = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []
        lines = ast.parse("".join(cell["source"]))
        last = ast.Expression(lines.body.pop().value)
        exec(compile(lines, "look.ipynb", "exec"), names)
        value = eval(compile(last, "look.ipynb", "eval"), names)
        html = value._repr_html_() or ""
        if "data:image/png" not in html:
            value.savefig(BytesIO(), format="png")  # what a notebook does with a figure
        shown += 1
    assert shown == 5


def test_every_example_has_a_test_and_is_short():
    tested = Path(__file__).read_text()
    for path in (ROOT / "examples").iterdir():
        if path.is_file():
            assert path.name in tested
            assert path.suffix == ".ipynb" or len(path.read_text().splitlines()) < 80
