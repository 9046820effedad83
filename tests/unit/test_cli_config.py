"""Settings from TOML files and the environment: which wins, and that nothing unknown is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from salm_dicom.cli.main import main

REPORTED = "budget_stored"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def protect(export: Path, *first: object, env: dict[str, str] | None = None, more=()) -> Result:
    words = [*first, "protect", export, "-o", "out", "--progress=none", "--json", "-j1", *more]
    return CliRunner().invoke(main, [str(word) for word in words], env=env)


def budget(result: Result) -> int:
    assert result.exit_code == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return next(row[REPORTED] for row in rows if row["type"] == "series")


def toml(path: str, text: str) -> Path:
    Path(path).write_text(text)
    return Path(path)


def test_command_line_wins_over_environment_over_config_over_the_current_folder(export):
    toml("salm-dicom.toml", '[protect]\nmethod = "random"\nepsilon = "2HU"\n')
    found = protect(export)
    assert budget(found) == 2
    assert "settings from salm-dicom.toml" in found.stderr
    named = toml("mine.toml", '[protect]\nepsilon = "3HU"\n')
    assert budget(protect(export, "--config", named, more=("--vault=3", "-oout3"))) == 3
    env = {"SALM_PROTECT_EPSILON": "4HU"}
    assert budget(protect(export, "--config", named, env=env, more=("-oout4", "--vault=4"))) == 4
    given = ("--epsilon=5HU", "-oout5", "--vault=5")
    assert budget(protect(export, "--config", named, env=env, more=given)) == 5


def test_a_pair_of_numbers_is_a_list(export):
    toml("salm-dicom.toml", '[protect]\nmethod = "random"\nintensity-range = [-100, 155]\n')
    assert budget(protect(export)) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[protekt]\n", "[protekt] is no command"),
        ("method = 'random'\n", "[method] is no command"),
        ("[protect]\nmetod = 'random'\n", "[protect] has no option 'metod'; known are allow-"),
        ("[protect]\noutput = 'x'\n", "has no option 'output'"),
        ("[protect]\nintensity-range = 3\n", "intensity-range has a value of the wrong kind"),
        ("[protect]\nmethod = ['random']\n", "method has a value of the wrong kind"),
        ("[protect]\nrho = 'many'\n", "not a valid float"),
        ("[verify]\nnothing = 1\n", "[verify] has no option 'nothing'"),
        ("[protect\n", "is no TOML"),
        ("x = " + "[" * 5000, "cannot be read (RecursionError)"),
    ],
)
def test_what_no_command_knows_is_refused_before_anything_runs(export, text, said):
    found = protect(export, "--config", toml("bad.toml", text))
    assert found.exit_code == 2
    assert said in " ".join(found.stderr.split())
    assert not Path("out").exists()
