"""Limits from TOML: what the package ships, what a user may replace, and what is refused."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files

import pytest
from click.testing import CliRunner

from salm_dicom.cli.main import main
from salm_dicom.errors import PlanError
from salm_dicom.fidelity import MEASURES, ROWS, Limits, Reading, checks, missed

SHIPPED = (files("salm_dicom.fidelity") / "limits.toml").read_text(encoding="utf-8")


def written(tmp_path, text):
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return path


def reading(name="small_window_shift", value=6.0, unit="HU") -> Reading:
    return Reading(name=name, value=value, unit=unit, where="10 mm window", at="slice 3")


def test_every_kind_of_image_has_limits_in_units_that_its_numbers_have():
    for profile in Limits().profiles:
        is_ct = "CT" in profile.modalities
        assert profile.limits.keys() <= MEASURES.keys()
        for name, limit in profile.limits.items():
            own = MEASURES[name].units()
            assert limit.unit == (own[0] if is_ct or len(own) == 1 else "%"), (profile.name, name)
    assert {one.row for one in MEASURES.values()} <= ROWS.keys()


def test_every_limit_that_is_shipped_has_a_source_above_it():
    has_comment = False
    for line in SHIPPED.splitlines():
        if not line.strip() or line.startswith("["):
            has_comment = False if line.startswith("[") else has_comment
        elif line.startswith("#"):
            has_comment = True
        elif "unit" in line:
            assert has_comment, line
    assert not re.search("clinically safe", SHIPPED, re.IGNORECASE)


@pytest.mark.parametrize(
    ("modality", "body_part", "name"),
    [
        ("CT", "", "CT"),
        ("CT", "CHEST", "CT"),
        ("CT", "head ", "CT brain"),
        ("MR", "BRAIN", "MR"),
        ("DX", "", "CR and DX"),
        ("MG", "BREAST", "MG"),
        ("US", "", "all"),
        ("", "", "all"),
    ],
)
def test_an_image_gets_the_most_particular_limits(modality, body_part, name):
    assert Limits().profile(modality, body_part).name == name


def test_a_users_file_replaces_limits_one_by_one(tmp_path):
    path = written(
        tmp_path,
        '[CT.limits]\nwindow_shift = { at_most = 2.5, unit = "HU" }\n'
        '[all.limits]\npsnr = { at_least = 50, wanted = 60.0, unit = "dB" }\n',
    )
    ct = Limits.read(path).profile("CT")
    assert (ct.limits["window_shift"].value, ct.limits["window_shift"].wanted) == (2.5, None)
    assert (ct.limits["psnr"].value, ct.limits["psnr"].wanted) == (50, 60)
    assert ct.limits["tissue_shift"] == Limits().profile("CT").limits["tissue_shift"]
    assert Limits.read(path).profile("MR").limits["psnr"].value == 50


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[CTX]\n", r"no kind of image \[CTX\]; known are all, CT, CT brain"),
        ("CT = 3\n", r"\[CT\] is no table"),
        ("[CT]\nlimits = 3\n", r"\[CT\] is no table"),
        ("[CT]\nlimit = 3\n", r"\[CT\] has no key 'limit'"),
        ("[CT]\nmodalities = 'CT'\n", "are lists of texts"),
        ("[CT.limits]\nshift = 3\n", "shift of .* is unknown; known are clipped, region_shift"),
        ("[CT.limits]\npsnr = 3\n", "is no table; write"),
        ("[CT.limits]\npsnr = { at_most = 3, unit = 'dB' }\n", "no key 'at_most'"),
        ("[CT.limits]\npsnr = { unit = 'dB' }\n", "needs at_least, or wanted"),
        ("[CT.limits]\npsnr = { at_least = 'x', unit = 'dB' }\n", "at_least .* is no number"),
        ("[CT.limits]\npsnr = { at_least = true, unit = 'dB' }\n", "at_least .* is no number"),
        ("[CT.limits]\npsnr = { at_least = nan, unit = 'dB' }\n", "at_least .* is no number"),
        ("[CT.limits]\npsnr = { at_least = 1 }\n", "unit of psnr .* is missing or none of"),
        ("[CT.limits]\npsnr = { at_least = 1, unit = 'HU' }\n", "none of"),
        ("[CT\n", "are no TOML"),
        ("x = " + "[" * 10_000, "cannot be read|are no TOML"),
    ],
)
def test_what_means_nothing_is_refused(tmp_path, text, said):
    with pytest.raises(PlanError, match=said):
        Limits.read(written(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PlanError, match="cannot be read"):
        Limits.read(tmp_path / "none.toml")


def test_a_limit_in_another_unit_than_the_number_is_refused(tmp_path):
    path = written(tmp_path, "[MR.limits]\nsmall_window_shift = { at_most = 5, unit = 'HU' }\n")
    with pytest.raises(PlanError, match="is in 'HU', and the images are measured in '%'"):
        checks([reading(unit="%")], Limits.read(path).profile("MR"))


def test_what_is_wanted_is_no_error_and_what_is_beyond_the_limit_is():
    profile = Limits().profile("CT")
    wanted, beyond, floor, unknown = checks(
        [
            reading(value=6.0),
            reading("region_shift", 6.0),
            reading("psnr", 30.0, "dB"),
            reading("ssim", float("nan"), ""),
        ],
        profile,
    )
    assert (wanted.is_missed, wanted.is_wanted, wanted.limit) == (False, False, 1.0)
    assert (beyond.is_missed, beyond.is_wanted, beyond.limit) == (True, False, 5.0)
    assert beyond.text == "shift of an outlined region's mean 6 HU > 5 HU, 10 mm window, slice 3"
    assert floor.text == "PSNR 30.0 dB < 35 dB, 10 mm window, slice 3"
    assert unknown.is_missed
    assert missed([wanted, beyond]) == [beyond.text]


@pytest.mark.parametrize("command", ["verify", "report"])
def test_a_users_limit_that_is_missed_exits_5_and_says_which(export, tmp_path, command):
    run = CliRunner().invoke
    out = str(tmp_path / "out")
    arguments = ["protect", str(export), "-o", out, "--method=random", "--progress=none", "-j1"]
    assert run(main, arguments).exit_code == 0
    path = written(
        tmp_path, "[CT.limits]\nwindow_shift = { at_most = 0.01, wanted = 0.001, unit = 'HU' }\n"
    )
    words = {
        "verify": ["verify", str(export), out, "--json"],
        "report": ["report", out, "--source", str(export), "-o", str(tmp_path / "pages")],
    }[command]
    found = run(main, [*words, "--limits", str(path), "--progress=none"])
    assert found.exit_code == 5, found.output
    if command == "report":
        assert "limit missed: shift of a window's mean" in found.output
        return
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    for row in rows[:-1]:
        assert all("shift of a window's mean" in text for text in row["missed"])
        names = {check["name"]: check for check in row["checks"]}
        assert names["window_shift"]["is_missed"]
        assert not names["psnr"]["is_missed"]
    tomllib.loads(path.read_text())
    path.write_text("[CT]\nnothing = 1\n")
    refused = run(main, [*words, "--limits", str(path)])
    assert refused.exit_code == 2
    assert "has no key 'nothing'" in refused.stderr


@pytest.mark.parametrize("rows", ["0", "13", "3;4", "", "three", "-1", "3,,4", "\u0663"])
def test_rows_that_do_not_exist_are_refused(export, rows):
    words = ["verify", str(export), str(export), f"--rows={rows}"]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2
    assert "rows are numbers from 1 to 12" in refused.stderr


def test_verify_prints_every_row_once_and_says_what_is_not_measured(export, tmp_path):
    run = CliRunner().invoke
    out = str(tmp_path / "out")
    words = ["protect", str(export), "-o", out, "--method=random", "--progress=none", "-j1"]
    assert run(main, words).exit_code == 0
    found = run(main, ["verify", str(export), out, "--progress=none", "--rows=3,5,12"])
    assert found.exit_code == 0
    for text in (
        "1 attributes", "2 voxels that may not change", "3 shift of means",
        "shift of the mean, sliding window", "7 PSNR and SSIM",
        "row 5 not measured: no slice has 4 squares of 16 mm", "row 12 not measured:",
        "(series 1, 2)",
    ):  # fmt: skip
        assert text in found.stdout
    assert "4 noise" not in found.stdout
