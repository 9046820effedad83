"""The command line: exit codes, JSON lines, what is printed of hostile names, a quick --help."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import nibabel as nib
import numpy as np
import pydicom
import pytest
from click.testing import Result

from salm_dicom.batch import protect as protect_module
from salm_dicom.batch.vault import Vault
from salm_dicom.cli import console
from salm_dicom.cli.main import COMMANDS
from salm_dicom.cli.options import printable
from tests.command import run
from tests.synthetic import write_ct_series

HEAVY = {"torch", "monai", "SimpleITK", "numpy", "pydicom"}
CANARY = "CANARY7531"


@pytest.fixture
def small(tmp_path) -> Path:
    """An export of one series of two small slices."""
    write_ct_series(tmp_path / "export" / "a", slices=2, rows=32, columns=32)
    return tmp_path / "export"


def protect(source: Path, output: Path, *more: object) -> Result:
    return run("protect", source, "-o", output, "--method=random", "--progress=none", "-j1", *more)


def lines(result: Result) -> list[dict]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys\nfrom salm_dicom.cli.main import main\n"
        "for option in ('--help', '--version'):\n"
        "    try: main([option])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_an_example_and_a_sentence_for_every_option(name):
    command = importlib.import_module(f"salm_dicom.cli.{name}").command
    assert command.help
    assert f"salm-dicom {name}" in command.epilog
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
    assert name in run("--help").output
    assert run(name, "--help").exit_code == 0


def test_the_random_control_is_protected_without_torch(tmp_path):
    write_ct_series(tmp_path / "in")
    code = (
        "import sys\nfrom salm_dicom.cli.main import main\n"
        f"words = ['protect', {str(tmp_path / 'in')!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        "try: main([*words, '--method=random', '--progress=none', '-j1'])\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules) - {{'pydicom', 'numpy', 'SimpleITK'}}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout
    assert list((tmp_path / "out").rglob("*.dcm"))


def test_the_help_of_every_command_loads_no_torch():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom salm_dicom.cli.main import main\n"
        f"for name in {list(COMMANDS)!r}:\n"
        "    assert CliRunner().invoke(main, [name, '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'monai', 'SimpleITK'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_runs_as_a_module():
    module = [sys.executable, "-m", "salm_dicom", "--version"]
    assert "salm-dicom" in subprocess.run(module, capture_output=True, text=True, check=True).stdout


def test_done_is_0_and_left_out_is_3_and_nothing_to_do_is_4(small, tmp_path):
    assert protect(small, tmp_path / "one").exit_code == 0
    assert run("verify", small, tmp_path / "one").exit_code == 0
    assert run("scan", small).exit_code == 0
    (small / "notes.txt").write_text("x")
    assert protect(small, tmp_path / "two").exit_code == 3
    assert run("scan", small).exit_code == 3
    assert protect(small, tmp_path / "three", "--dry-run").exit_code == 3
    (tmp_path / "empty").mkdir()
    for command in (["scan"], ["protect", "-o", tmp_path / "four", "--method=random"]):
        assert run(*command, tmp_path / "empty").exit_code == 4
    assert run("verify", tmp_path / "empty", tmp_path / "empty").exit_code == 4


def test_a_series_of_source_that_is_not_in_out_is_3(small, tmp_path):
    protect(small, tmp_path / "out")
    write_ct_series(small / "b", slices=1, rows=32, columns=32, patient_id="B")
    result = run("verify", small, tmp_path / "out")
    assert result.exit_code == 3
    assert "1 series of SOURCE are not in OUT" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["protect", "{source}"],
        ["protect", "{source}", "-o", "{out}", "--method=no"],
        ["protect", "{source}", "-o", "{out}", "--method=random", "--epsilon=much"],
        ["protect", "{source}", "-o", "{out}", "--method=random", "--created=yesterday"],
        ["protect", "{source}", "-o", "{out}", "--method=random", "--site-key={short}"],
        ["protect", "{source}", "-o", "{out}", "--method=random", "--site-key={missing}"],
        ["protect", "{source}", "-o", "{out}", "--protector={missing}"],
        ["protect", "{source}", "-o", "{out}", "--labels={missing}"],
        ["protect", "{source}", "-o", "{out}", "--labels={short}"],
        ["fit", "{source}", "-o", "{out}"],
        ["fit", "{source}", "-o", "{out}", "--method=random", "--labels={short}"],
        ["restore", "{missing}", "-o", "{out}"],
        ["verify", "{missing}", "{source}"],
        ["no-such-command"],
    ],
)
def test_a_usage_error_is_2_and_writes_nothing(small, tmp_path, arguments):
    (tmp_path / "short").write_text("0123456789")
    places = {"source": small, "out": tmp_path / "out", "short": tmp_path / "short"}
    places["missing"] = tmp_path / "missing"
    result = run(*[argument.format(**places) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


def test_a_missed_limit_is_5_and_a_wrong_file_is_9_and_wins(small, tmp_path):
    out = tmp_path / "out"
    protect(small, out)
    strict = ["verify", small, out, "--min-psnr=200", "--json"]
    result = run(*strict)
    assert result.exit_code == 5
    assert lines(result)[-1]["limits_missed"] == 1
    next(out.rglob("*.dcm")).unlink()
    assert run(*strict).exit_code == 9


def test_an_unsafe_place_is_6_and_a_held_vault_is_8(small, tmp_path):
    assert protect(small, small / "a" / "out").exit_code == 6
    vault = Vault(tmp_path / "out.vault")
    vault.create()
    with vault.locked():
        assert protect(small, tmp_path / "out").exit_code == 8


@pytest.mark.parametrize("where", ["fsync", "manifest", "vault"])
def test_no_space_is_7_wherever_it_ends(small, tmp_path, monkeypatch, where):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, f"No space left on device: {small}")

    targets = {
        "fsync": (os, "fsync"),
        "manifest": (protect_module, "write_manifest"),
        "vault": (Vault, "create"),
    }
    monkeypatch.setattr(*targets[where], full)
    result = protect(small, tmp_path / "out")
    assert result.exit_code == 7, result.output
    assert str(small) not in result.output


def test_what_nobody_foresaw_is_1_and_its_text_is_not_shown(small, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError(CANARY)

    monkeypatch.setattr(protect_module, "write_manifest", fail)
    result = protect(small, tmp_path / "out", f"--log-file={tmp_path / 'log'}")
    assert result.exit_code == 1
    assert "ValueError" in result.output
    assert "protect.py" in (tmp_path / "log").read_text()
    assert CANARY not in result.output + (tmp_path / "log").read_text()


def test_an_interrupt_is_130(small, tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(protect_module, "write_manifest", interrupt)
    result = protect(small, tmp_path / "out")
    assert result.exit_code == 130
    assert "run the same command again" in result.output.lower()


def test_json_lines_begin_with_their_type_and_end_with_a_summary(small, tmp_path):
    (small / "notes.txt").write_text("x")
    out = tmp_path / "out"
    results = [
        run("scan", small, "--json"),
        protect(small, out, "--json"),
        run("verify", small, out, "--json"),
        run("restore", out, "-o", tmp_path / "back", "--json"),
        protect(small, tmp_path / "dry", "--dry-run", "--json"),
    ]
    for result in results:
        rows = lines(result)
        assert {next(iter(row)) for row in rows} == {"type"}
        assert rows[-1]["type"] == "summary"
        assert all(row["type"] != "summary" for row in rows[:-1])


def test_a_dry_run_writes_nothing(small, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    result = protect(small, tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert "nothing is written" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_source_date_epoch_gives_the_creation_time(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    protect(small, tmp_path / "out")
    dataset = pydicom.dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert (dataset.InstanceCreationDate, dataset.InstanceCreationTime) == ("20231114", "221320")


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(small, tmp_path):
    name = "a\x1b[2Jb\u202ecod\u2066.txt\x07\u009b31m\nline"
    (small / name).write_text("not DICOM")
    (small / "hyperlink=HYPERLINK.txt").write_text("not DICOM")
    for result in (run("scan", small), protect(small, tmp_path / "out")):
        assert result.exit_code == 3
        assert "a?[2Jb?cod?.txt??31m?line" in result.output
        assert not set("\x1b\u202e\u2066\x07\u009b") & set(result.output)
    (row,) = (r for r in lines(run("scan", small, "--json")) if r.get("path", "").endswith("line"))
    assert Path(row["path"]).name == name


def test_a_file_name_that_is_not_unicode_is_listed(small, tmp_path):
    (small / os.fsdecode(b"broken\xff\xfe.txt")).write_text("not DICOM")
    for result in (run("scan", small), protect(small, tmp_path / "out")):
        assert result.exit_code == 3, result.output
        assert "broken" in result.output


@pytest.mark.parametrize("character", "\x00\x08\x1b\x7f\x85\u200e\u202a\u202e\u2069")
def test_no_control_character_is_printable(character):
    assert printable(f"a{character}b") == "a?b"


def test_no_patient_value_is_in_what_may_be_seen_or_shared(small, tmp_path):
    for path in sorted(small.rglob("*.dcm")):
        dataset = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "StudyDescription", "AccessionNumber"):
            setattr(dataset, keyword, CANARY)
        dataset.RescaleSlope = 0 if path.name == "IM00002.dcm" else 1
        dataset.add_new(0x00104000, "LT", f"{CANARY}\x1b[31m")
        dataset.save_as(path)
    broken = small / "broken.dcm"
    broken.write_bytes(path.read_bytes()[:1500].replace(b"LO", b"L?"))
    log, out = tmp_path / "log", tmp_path / "out"
    seen = [protect(small, out, f"--log-file={log}", *more).output for more in ([], ["--json"])]
    seen += [run("scan", small).output, run("verify", small, out).output if out.exists() else ""]
    seen += [str(path) for folder in (out, tmp_path / "out.vault") for path in folder.rglob("*")]
    seen += [log.read_text(), (out / "manifest.json").read_text()]
    for text in seen:
        assert CANARY not in text


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_libraries_warn_of_does_not_reach_people(tmp_path, jobs):
    """NumPy would quote where it overflows, pydicom a value that is not valid."""
    for number in range(2):
        folder = tmp_path / "in" / str(number)
        header = nib.Nifti2Header()
        header["srow_x"], header["srow_y"] = (1e200, 0, 0, number), (0, 1e200, 0, 0)
        header["srow_z"] = (0, 0, 1e-200, 0)
        header["sform_code"] = 1
        header.set_data_dtype(np.int16)
        voxels = np.arange(512, dtype=np.int16).reshape(8, 8, 8)
        image = nib.Nifti2Image(voxels, None, header)
        folder.mkdir(parents=True)
        image.to_filename(folder / "huge.nii")
        for path in write_ct_series(folder / "ct", slices=2, patient_id=f"P{number}", seed=number):
            dataset = pydicom.dcmread(path)
            dataset.add_new(0x00081155, "UI", CANARY)
            dataset.save_as(path)
    words = ["protect", tmp_path / "in", "-o", tmp_path / "out", "--method=random"]
    done = subprocess.run(
        [sys.executable, "-m", "salm_dicom", *map(str, words), "--modality=MR",
         "--progress=none", f"-j{jobs}"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    assert CANARY not in done.stdout


def test_a_phase_that_others_interrupt_is_named_when_it_begins_and_when_it_goes_on(capsys):
    with console.progress_to_stderr("auto") as show:
        for what, done in (("protect", 0), ("protect", 1), ("waiting", 1), ("waiting", 1),
                           ("protect", 2), ("protect", 3)):  # fmt: skip
            show(what, done, 3)
    assert capsys.readouterr().err.split("\n")[:-1] == [
        "protect: 0 of 3", "waiting: 1 of 3", "protect: 2 of 3", "protect: 3 of 3",
    ]  # fmt: skip
