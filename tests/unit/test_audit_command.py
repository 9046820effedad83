"""`salm-dicom audit` on small exports: pairs, exit codes, files, the same with two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from salm_dicom.audit import COUNTERMEASURES, experiment
from salm_dicom.audit.experiment import conduct
from salm_dicom.batch.counterparts import SPLIT_BY, Pair, pairs
from salm_dicom.batch.labels import Labels
from salm_dicom.cli import audit, audit_asked
from tests.command import run
from tests.nifti_files import hounsfield, write_nifti_file
from tests.synthetic import write_ct_series
from tests.synthetic_frames import EnhancedRecipe, stack, write_enhanced

QUICK = ("--victims=convnet", "--seeds=1", "--epochs=8", "--countermeasures=none", "--coverage=100",
         "--size=32", "--slices=2", "--progress=none")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of 30 patients, its random control, and labels: chest or abdomen."""
    folder = tmp_path_factory.mktemp("audit")
    rows = ["key,label"]
    for number in range(30):
        label = "chest" if number % 2 else "abdomen"
        write_ct_series(
            folder / "export" / str(number), patient_id=f"CANARY{number}", slices=1, rows=32,
            columns=32, lungs=bool(number % 2), seed=number,
        )  # fmt: skip
        rows.append(f"CANARY{number},{label}")
    (folder / "labels.csv").write_text("\n".join(rows))
    settings = ("--method=random", "--progress=none", "-j1")
    assert run("protect", folder / "export", "-o", folder / "out", *settings).exit_code == 0
    return folder


def audited(folder: Path, *more: object, source: str = "export", output: str = "out") -> Result:
    labels = ("--labels", folder / "labels.csv", "--labels-by=patient")
    return run("audit", folder / source, folder / output, *labels, *QUICK, *more)


def found(folder: Path, source: Path | None = None, **options: object) -> list[Pair]:
    source = source or folder / "export"
    labels = Labels.read(folder / "labels.csv", by="patient", root=source)
    return pairs(source, folder / "out", labels, **options)[0]


def test_the_names_in_help_are_those_of_the_tables():
    assert tuple(n for n in COUNTERMEASURES if n != "none") == audit_asked.COUNTERMEASURES
    (split_by,) = (p for p in audit.command.params if p.name == "split_by")
    assert tuple(split_by.type.choices) == SPLIT_BY


def test_the_random_control_is_not_protected_and_a_requirement_is_5(folder, tmp_path):
    result = audited(folder, "--json", tmp_path / "audit.json", "--require=0.5")
    assert result.exit_code == 5, result.output
    assert "not protected" in result.output
    assert "50 % lost in every row. NOT reached" in result.output
    assert "CANARY" not in result.output + (tmp_path / "audit.json").read_text()
    document = json.loads((tmp_path / "audit.json").read_text())
    assert document["data"]["sides"]["train"]["patients"] == 18
    assert document["is_complete"]
    assert audited(folder, "--require=-9").exit_code == 0


def test_two_processes_find_what_one_does(folder, tmp_path):
    results = []
    for jobs in (1, 2):
        path = tmp_path / f"{jobs}.json"
        assert audited(folder, "--json", path, "-j", jobs, "--seeds=2", "--epochs=2").exit_code == 0
        document = json.loads(path.read_text())
        for trial in document["trials"]:
            del trial["seconds"]
        results.append({k: document[k] for k in ("trials", "countermeasures", "utility")})
    assert results[0] == results[1]


def test_an_interrupted_audit_is_130_and_keeps_its_trials(folder, tmp_path, monkeypatch):
    def interrupt(data, spec, settings):
        if spec.coverage:
            raise KeyboardInterrupt
        return conduct(data, spec, settings)

    monkeypatch.setattr(experiment, "conduct", interrupt)
    result = audited(folder, "--epochs=1", "--json", tmp_path / "audit.json")
    assert result.exit_code == 130
    assert "audit.json" in result.output
    document = json.loads((tmp_path / "audit.json").read_text())
    assert (len(document["trials"]), document["is_complete"]) == (1, False)


def test_series_that_do_not_say_whose_they_are_are_warned_of(tmp_path):
    rows = ["key,label"]
    for number in range(6):
        write_ct_series(
            tmp_path / "export" / str(number), patient_id="", slices=1, rows=32, columns=32,
            lungs=bool(number % 2), seed=number,
        )  # fmt: skip
        rows.append(f"{number},{number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    settings = ("--method=random", "--progress=none", "-j1")
    run("protect", tmp_path / "export", "-o", tmp_path / "out", *settings)
    labels = ("--labels", tmp_path / "labels.csv", "--labels-by=path")
    result = run("audit", tmp_path / "export", tmp_path / "out", *labels, *QUICK, "--epochs=1")
    assert result.exit_code == 0, result.output
    assert "6 series do not say whose they are" in result.output
    assert "Take care: a label has 1 test patients only" in result.output


def test_late_series_are_compared_with_those_of_the_fit(folder, tmp_path):
    rows = (folder / "labels.csv").read_text().splitlines()
    (tmp_path / "fit.csv").write_text("\n".join([rows[0], *rows[1:16]]))
    labels = Labels.read(tmp_path / "fit.csv", by="patient", root=folder / "export")
    assert (
        sorted(pair.fitted for pair in found(folder, fitted=labels)) == [False] * 15 + [True] * 15
    )
    assert {pair.fitted for pair in found(folder)} == {None}
    output = audited(folder, "--epochs=1", "--fitted-labels", tmp_path / "fit.csv").output
    assert "Not measured: late arrival" in output or "arrived late" in output
    assert "nobody said" not in output


def test_files_without_a_pair_are_listed_and_make_3(folder, tmp_path):
    for name in ("export", "out"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copy(folder / "labels.csv", tmp_path)
    write_ct_series(tmp_path / "export" / "new", patient_id="CANARY0", rows=32, columns=32, seed=9)
    write_ct_series(tmp_path / "export" / "none", patient_id="X", rows=32, columns=32)
    (tmp_path / "export" / "notes.txt").write_text("x")
    result = audited(tmp_path, "--epochs=1", "--json", tmp_path / "audit.json")
    assert result.exit_code == 3, result.output
    assert "E_NOT_PROTECTED" in result.output
    left_out = json.loads((tmp_path / "audit.json").read_text())["data"]["left_out"]
    assert left_out == {"E_NOT_DICOM": 1, "E_NOT_PROTECTED": 6}


def test_two_outputs_at_once_are_told_apart_by_nobody_and_refused(folder, tmp_path):
    shutil.copytree(folder / "out", tmp_path / "both" / "one")
    shutil.copytree(folder / "out", tmp_path / "both" / "two")
    result = run("audit", folder / "export", tmp_path / "both", "--labels", folder / "labels.csv",
                 "--labels-by=patient")  # fmt: skip
    assert result.exit_code == 4
    assert "2 protected counterparts" in result.output


def test_too_few_patients_are_2_with_what_was_found_and_what_was_left_out(folder, tmp_path):
    shutil.copytree(folder / "export", tmp_path / "export")
    for number in range(1, 27, 2):
        shutil.rmtree(tmp_path / "export" / str(number))
    (tmp_path / "export" / "notes.txt").write_text("x")
    (tmp_path / "out").symlink_to(folder / "out")
    shutil.copy(folder / "labels.csv", tmp_path)
    result = audited(tmp_path)
    assert result.exit_code == 2
    assert "too few patients of chest (abdomen: 15, chest: 2)" in result.output
    assert "E_TOO_FEW" in result.output
    assert "notes.txt" in result.output


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--victims=vit"], 2), (["--countermeasures=jpeg"], 2), (["--coverage=much"], 2),
        (["--coverage=0"], 2), (["--json={out}/a.json"], 6), (["--plots={export}"], 6),
        (["--labels={export}/missing"], 2), (["--intensity-range", "5", "1"], 2),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_read(folder, more, code):
    places = {name: folder / name for name in ("out", "export")}
    assert audited(folder, *(part.format(**places) for part in more)).exit_code == code


def test_an_audit_without_labels_or_folders_is_2(folder, tmp_path):
    assert run("audit", folder / "export", folder / "out").exit_code == 2
    for wrong in ({"source": "none"}, {"output": "none"}):
        assert audited(folder, **wrong).exit_code == 2


def test_pairs_are_the_pixels_on_disk(folder):
    for pair in found(folder):
        source, protected = pair.load()
        change = protected.values.astype(int) - source.pixels.values
        assert 0 < np.abs(change).max() <= 6
        assert pair.is_known


def test_patients_are_told_apart_by_what_is_asked_for(folder):
    assert len({pair.patient for pair in found(folder)}) == 30
    for split_by in ("study", "series"):
        assert len({pair.patient for pair in found(folder, split_by=split_by)}) == 30


def test_frames_of_an_enhanced_file_are_paired_in_spatial_order(tmp_path):
    (tmp_path / "export").mkdir()
    recipe = EnhancedRecipe(frames=(*stack(4)[::-2], *stack(4)[::2]))
    write_enhanced(tmp_path / "export" / "one.dcm", recipe)
    settings = ("--method=random", "--progress=none", "-j1")
    run("protect", tmp_path / "export", "-o", tmp_path / "out", *settings)
    labels = Labels(by="path", table={".": "a"}, root=tmp_path / "export")
    (pair,), left_out = pairs(tmp_path / "export", tmp_path / "out", labels)
    assert left_out == []
    source, protected = pair.load()
    change = protected.values.astype(int) - source.pixels.values
    assert 0 < np.abs(change).max() <= 6  # slices mixed up differ by more


def test_nifti_files_are_paired_and_their_subject_folder_is_the_patient(tmp_path):
    for seed, name in enumerate(("sub-01/ses-1/ct.nii.gz", "sub-02/ct.nii", "loose.nii")):
        write_nifti_file(tmp_path / "export" / name, hounsfield(seed=seed))
    settings = ("--method=random", "--progress=none", "-j1")
    run("protect", tmp_path / "export", "-o", tmp_path / "out", *settings)
    labels = Labels(by="path", table={".": "a"}, root=tmp_path / "export")
    both, _ = pairs(tmp_path / "export", tmp_path / "out", labels)
    assert {(pair.patient if pair.is_known else "?") for pair in both} == {
        "file sub-01", "file sub-02", "?",
    }  # fmt: skip
    for pair in both:
        source, protected = pair.load()
        assert 0 < np.abs(protected.values.astype(int) - source.pixels.values).max() <= 6
