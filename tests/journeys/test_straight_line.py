"""From an export to what is shared, and back: every step through the command line."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from click.testing import Result

from salm_dicom.cli.main import main
from tests.command import run
from tests.synthetic import write_ct_series

CREATED = "--created=2026-01-02T03:04:05+00:00"


def protect(source: Path, output: Path, *more: object) -> Result:
    return run("protect", source, "-o", output, CREATED, "--progress=none", *more)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def labels(export: Path) -> Path:
    table = export.parent / "labels.csv"
    table.write_text("key,label\na,thorax\nb,abdomen\n")
    return table


def test_two_runs_give_the_same_bytes_and_leave_the_source_alone(export, tmp_path):
    before = digests(export)
    assert protect(export, tmp_path / "one", "--method=random", "--jobs=1").exit_code == 0
    assert protect(export, tmp_path / "two", "--method=random", "--jobs=2").exit_code == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 7
    assert digests(export) == before


@pytest.mark.parametrize(
    ("method", "extent"), [("salm", "slice"), ("salm", "volume"), ("one_sided", "volume")]
)
def test_a_method_is_fitted_on_the_way_verified_and_restored(export, tmp_path, method, extent):
    out = tmp_path / "out"
    result = protect(
        export, out, f"--labels={labels(export)}", "--labels-by=path",
        f"--method={method}", f"--extent={extent}", "--rounds=2", "--steps=3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"{method}/{extent}" in result.output
    assert "= 6 HU = 6 stored" in result.output
    verified = run("verify", export, out, "--json", "--progress=none")
    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.output.splitlines()[-1])["wrong"] == 0
    restored = run("restore", out, "-o", tmp_path / "back", "--progress=none")
    assert restored.exit_code == 0, restored.output
    assert sorted(digests(tmp_path / "back").values()) == sorted(digests(export).values())


def test_a_fitted_protector_gives_the_same_bytes_as_a_fit_on_the_way(export, tmp_path):
    settings = [f"--labels={labels(export)}", "--labels-by=path", "--rounds=1", "--steps=2"]
    settings += ["--method=salm"]
    assert protect(export, tmp_path / "one", *settings).exit_code == 0
    fitted = run("fit", export, "-o", tmp_path / "protector", "--progress=none", *settings)
    assert fitted.exit_code == 0, fitted.output
    by_protector = [f"--protector={tmp_path / 'protector'}", *settings[:2]]
    assert protect(export, tmp_path / "two", *by_protector).exit_code == 0
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_broken_files_are_listed_with_their_codes_and_the_rest_is_protected(export, tmp_path):
    good = export / "a" / "IM00002.dcm"
    (export / "notes.txt").write_text("not DICOM")
    (export / "empty.dcm").touch()
    (export / "cut.dcm").write_bytes(good.read_bytes()[:-1000])
    (export / "copy.dcm").write_bytes(good.read_bytes())
    result = protect(export, tmp_path / "out", "--method=random", "--json")
    assert result.exit_code == 3
    rows = [json.loads(line) for line in result.output.splitlines()]
    codes = {Path(row["path"]).name: row["code"] for row in rows if row["type"] == "left_out"}
    assert codes == {
        "notes.txt": "E_NOT_DICOM",
        "empty.dcm": "E_EMPTY",
        "cut.dcm": "E_TRUNCATED",
        "copy.dcm": "E_DUPLICATE",
    } or codes == {  # which of two equal files is the copy depends on their names' order
        "notes.txt": "E_NOT_DICOM",
        "empty.dcm": "E_EMPTY",
        "cut.dcm": "E_TRUNCATED",
        "IM00002.dcm": "E_DUPLICATE",
    }
    assert rows[-1]["series"] == 2


def test_a_series_with_a_gap_is_protected_slice_by_slice_and_says_so(tmp_path):
    write_ct_series(tmp_path / "export", slices=4, gaps_mm=(2.0, 6.0, 2.0))
    scanned = run("scan", tmp_path / "export", "--json").output.splitlines()
    assert json.loads(scanned[0])["extent"] == "slice"
    result = protect(tmp_path / "export", tmp_path / "out", "--method=random", "--extent=volume")
    assert result.exit_code == 0
    assert "W_SPACING" in result.output


def test_a_second_run_finishes_what_is_missing_with_the_same_bytes(export, tmp_path):
    protect(export, tmp_path / "out", "--method=random")
    before = digests(tmp_path / "out")
    for path in (tmp_path / "out" / "patient-0002").rglob("*.dcm"):
        path.unlink()
    (tmp_path / "out/patient-0002/study-01/series-001").rmdir()
    again = protect(export, tmp_path / "out", "--method=random", "--created=2027-01-01")
    assert "1 of them by an earlier run" in again.output
    assert digests(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["scan", "{missing}"], 2, "does not exist"),
        (["protect", "{export}", "-o", "{export}/out", "--method=random"], 6, "lies in"),
        (["protect", "{export}", "-o", "{foreign}", "--method=random"], 6, "not from a run"),
        (["protect", "{export}", "-o", "{out}"], 2, "needs labels"),
        (["protect", "{export}", "-o", "{out}", "--method=random", "--epsilon=0.1 stored"], 4, ""),
        (["protect", "{empty}", "-o", "{out}", "--method=random"], 4, ""),
        (["protect", "{export}", "-o", "{out}", "--rho=2", "--method=random"], 2, "rho is 2"),
        (["verify", "{export}", "{missing}"], 2, "not a folder"),
    ],
)
def test_a_mistake_gets_its_exit_code_and_a_sentence(export, tmp_path, arguments, code, says):
    places = {"export": export, "missing": tmp_path / "no", "out": tmp_path / "out"}
    places |= {"foreign": tmp_path / "foreign", "empty": tmp_path / "empty"}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "mine.doc").touch()
    (tmp_path / "empty").mkdir()
    result = run(*[a.format(**places) for a in arguments])
    assert result.exit_code == code, result.output
    assert says in result.output
    assert "Traceback" not in result.output
    assert (tmp_path / "foreign" / "mine.doc").exists()


def test_verify_exits_9_for_a_changed_file_and_5_for_a_missed_limit(export, tmp_path):
    protect(export, tmp_path / "out", "--method=random")
    strict = run("verify", export, tmp_path / "out", "--min-psnr=99", "--progress=none")
    assert strict.exit_code == 5
    assert "limit missed: PSNR" in strict.output
    path = next((tmp_path / "out").rglob("*.dcm"))
    dataset = pydicom.dcmread(path)
    dataset.PatientWeight = 71
    dataset.save_as(path)
    assert run("verify", export, tmp_path / "out", "--progress=none").exit_code == 9


def test_protected_output_is_not_protected_again(export, tmp_path):
    protect(export, tmp_path / "out", "--method=random")
    result = protect(tmp_path / "out", tmp_path / "again", "--method=random")
    assert result.exit_code == 4
    assert "E_ALREADY_PROTECTED" in result.output


def test_no_patient_value_leaves_through_messages_names_or_the_manifest(tmp_path):
    canary = "CANARY7531"
    files = write_ct_series(tmp_path / "export", patient_id=canary)
    for path in files:
        dataset = pydicom.dcmread(path)
        dataset.PatientName = dataset.StudyDescription = dataset.AccessionNumber = canary
        dataset.SeriesDescription = dataset.InstitutionName = canary
        dataset.save_as(path)
    files[1].write_bytes(files[1].read_bytes()[:-99])
    log = tmp_path / "log"
    result = protect(tmp_path / "export", tmp_path / "out", "--method=random", "--log-file", log)
    verified = run("verify", tmp_path / "export", tmp_path / "out")
    names = "\n".join(str(p) for p in (tmp_path / "out").rglob("*"))
    manifest = (tmp_path / "out" / "manifest.json").read_text()
    for text in (result.output, verified.output, names, manifest, log.read_text()):
        assert canary not in text


def test_help_imports_nothing_heavy_and_every_command_has_an_example():
    code = (
        "import sys; from click.testing import CliRunner; from salm_dicom.cli.main import main;"
        "print(CliRunner().invoke(main, ['--help']).exit_code,"
        "sorted({'torch','monai','SimpleITK','pydicom','numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"
    for name in main.list_commands(None):
        text = run(name, "--help").output
        assert "Example" in text, name
        assert f"salm-dicom {name}" in text
