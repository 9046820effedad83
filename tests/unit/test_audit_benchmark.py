"""The benchmark of audits: what it exports, what it prints, and that it makes no audit twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import audit as benchmark
from benchmarks.audit import DATA, SMALL, Modalities, measure, table
from tests.synthetic import write_ct_series


def row(measure: str, value: float | None, coverage: int = 100) -> dict:
    interval = {"low": 0.1, "value": 0.5, "high": 0.9}
    lost = None if value is None else {"low": value - 0.1, "value": value, "high": value + 0.1}
    return {
        "countermeasure": measure, "coverage": coverage, "clean": interval, "protected": interval,
        "protection": lost, "clean_auc": 0.9, "protected_auc": 0.6, "verdict": "protected: 94 %",
    }  # fmt: skip


DOCUMENT = {
    "countermeasures": [row("none", 0.94), row("clean_choice", None), row("jpeg10", 0.2)],
    "coverage": [row("none", 0.94), row("none", -0.05, 50)],
    "trials": [{}, {}],
}


def test_the_table_has_a_line_for_each_thing_a_victim_may_do():
    lines = table({"planted": DOCUMENT}).splitlines()
    assert lines[2] == "| nothing | 94 % (84 to 104) |"
    assert lines[3] == "| nothing, epoch chosen on clean images | nothing to lose |"
    assert lines[5] == "| 50 % of patients clean | -5 % (-15 to 5) |"
    assert "| AUC, protected | 0.60 |" in lines
    assert lines[-1] == "| verdict | protected |"


def test_real_series_keep_their_files_and_are_labelled_by_modality(tmp_path, monkeypatch):
    data = tmp_path / "data"
    rows = ["file,kind,modality,rows"]
    for name, modality, side in (("a", "CT", 64), ("b", "MR", 64), ("c", "CT", 16)):
        write_ct_series(data / name, patient_id=name, slices=1, rows=side, columns=side)
        (path,) = (data / name).iterdir()
        rows.append(f"{name}/{path.name},dicom,{modality},{side}")
    rows.append("notes.txt,other,,")
    (data / "FILES.csv").write_text("\n".join(rows))
    monkeypatch.setenv("SALM_SHARED", str(tmp_path))
    export = Modalities().write(tmp_path, SMALL)
    files = sorted(export.folder.iterdir())
    sources = [next((data / name).iterdir()) for name in ("a", "b")]
    assert [one.read_bytes() for one in files] == [one.read_bytes() for one in sources]
    labels = (tmp_path / "labels.csv").read_text().splitlines()
    assert labels[0] == "key,label"
    assert [line.split(",")[1] for line in labels[1:]] == ["CT", "MR"]
    assert export.what == "1 patients with CT, 1 patients with MR, as far as files say"


def test_an_audit_that_the_results_have_is_printed_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    made = []

    class Fake:
        epochs = 3

        def write(self, folder: Path, size: object) -> benchmark.Export:
            return benchmark.Export(folder=folder, about=(), side=8, what="two patients")

    def audited(_: Path, name: str, __: object, options: list[str], ___: int) -> dict:
        assert options[-1] == "--epochs=3"
        made.append(name)
        return DOCUMENT

    monkeypatch.setitem(DATA, "fake", Fake())
    monkeypatch.setattr(benchmark, "audited", audited)
    results = tmp_path / "audit.json"
    measure("fake", ["planted"], SMALL, 1, results, again=False)
    measure("fake", ["planted", "random"], SMALL, 1, results, again=False)
    assert made == ["planted", "random"]
    kept = json.loads(results.read_text())["audits"]["fake"]
    assert kept["planted"]["trials"] == 2
    assert kept["random"]["asked"]["export"] == "two patients"
    assert "| nothing | 94 % (84 to 104) | 94 % (84 to 104) |" in capsys.readouterr().out
    measure("fake", ["planted"], SMALL, 1, results, again=True)
    assert made == ["planted", "random", "planted"]
