"""`doctor` and `completion`: each check can fail, and says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from pydicom.uid import RLELossless

from salm_dicom.cli import doctor
from salm_dicom.cli.completion import SHELLS
from salm_dicom.cli.main import COMMANDS, main
from salm_dicom.dicom import codecs as codecs_module


def checks(*words: str) -> tuple[int, dict[str, dict]]:
    done = CliRunner().invoke(main, ["doctor", "--json", *words])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, {row["name"]: row for row in rows if row["type"] == "check"}


def test_this_installation_is_well(tmp_path):
    code, found = checks("--folder", str(tmp_path))
    assert code == 0
    assert list(found) == list(doctor.CHECKS)
    assert all(row["ok"] for row in found.values())
    assert "20% of a disc of water changed" in found["protection"]["found"]
    assert not list(tmp_path.iterdir())


def test_people_read_a_line_for_each_check(tmp_path):
    done = CliRunner().invoke(main, ["doctor", "--folder", str(tmp_path)])
    lines = done.stdout.splitlines()
    assert len(lines) == len(doctor.CHECKS)
    assert all(line.startswith("ok ") for line in lines)


FULL = SimpleNamespace(free=9)
SPOILED = {
    "folder": (shutil, "disk_usage", lambda _: FULL, "GB are free"),
    "decoders": (codecs_module, "ENCODERS", {RLELossless: "none"}, "cannot read RLE Lossless"),
    "libraries": (doctor, "LIBRARIES", ("no-such-library",), "no-such-library is not installed"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_check_that_fails_says_so_and_the_exit_status_too(tmp_path, monkeypatch, name):
    *what, said = SPOILED[name]
    monkeypatch.setattr(*what)
    code, found = checks("--folder", str(tmp_path))
    assert code == 1
    assert [one for one, row in found.items() if not row["ok"]] == [name]
    assert said in found[name]["found"]


def test_a_folder_that_is_not_there_fails(tmp_path):
    code, found = checks("--folder", str(tmp_path / "nowhere"))
    assert code == 1
    assert not found["folder"]["ok"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_is_one_for_our_program(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_SALM_DICOM_COMPLETE" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_completion_knows_every_command():
    asked = {
        "_SALM_DICOM_COMPLETE": "bash_complete",
        "COMP_WORDS": "salm-dicom ",
        "COMP_CWORD": "1",
    }
    done = CliRunner().invoke(main, [], prog_name="salm-dicom", env=asked)
    assert set(COMMANDS) <= {line.partition(",")[2] for line in done.stdout.splitlines()}
