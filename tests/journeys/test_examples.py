"""The README's pipeline and every script in examples/ run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

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


def test_every_example_has_a_test():
    tested = Path(__file__).read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert path.name in tested
