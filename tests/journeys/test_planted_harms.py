"""Harms planted in a protected series: each fails its own row of `verify` and no other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from tests.command import run
from tests.objects import write_segmentation
from tests.synthetic import write_ct_series

Edit = Callable[[pydicom.Dataset, np.ndarray], np.ndarray | None]
SIZE, NOISE, HEIGHT = 160, 12.0, 160
# Where `write_segmentation` marks the liver; here it is a lesion that takes up contrast.
LESION = (slice(20, 40), slice(24, 36))
# Rows of one harm: what is measured for it.
DEFAULT, WITH_SPECTRUM = "1,2,3,4,6,7,8,9", "1,2,3,4,5,6,7,8,9"


def body() -> np.ndarray:
    """Return HU of a slice: a square of soft tissue in air, with a lesion."""
    hounsfield = np.full((SIZE, SIZE), -1000.0)
    hounsfield[12:-12, 12:-12] = 40
    hounsfield[LESION] += HEIGHT
    return hounsfield


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("harms")
    recipe: dict[str, Any] = {"rows": SIZE, "columns": SIZE, "bits_stored": 12, "signed": False}
    files = write_ct_series(folder / "source", slices=2, **recipe)
    rng = np.random.default_rng(0)
    for path in files:
        image = pydicom.dcmread(path)
        noise = rng.normal(0, NOISE, (SIZE, SIZE))
        stored = np.rint(body() + noise * (body() > -500) - image.RescaleIntercept)
        stored[0, :2] = 0, 4095  # the extremes count as clipped: they shall not lie in the body
        image.PixelData = stored.clip(0, 4095).astype(np.uint16).tobytes()
        image.save_as(path)
    write_segmentation(folder / "regions" / "lesion.dcm", files)
    words = ("--method=random", "--epsilon=60HU", "--progress=none", "-j1")
    done = run("protect", folder / "source", "-o", folder / "out", *words)
    assert done.exit_code == 0, done.output
    return folder


def planted(export: Path, tmp_path: Path, harm: Edit) -> Path:
    """Return an output whose pixels are the source's but for the harm; within the stated budget."""
    out = tmp_path / "out"
    shutil.copytree(export / "out", out)
    for path in sorted(out.rglob("*.dcm")):
        image = pydicom.dcmread(path)
        source_uid = image.SourceImageSequence[-1].ReferencedSOPInstanceUID
        (source,) = (
            one
            for one in map(pydicom.dcmread, sorted((export / "source").rglob("*.dcm")))
            if one.SOPInstanceUID == source_uid
        )
        before = source.pixel_array.astype(np.int64)
        after = harm(image, before.copy())
        image.PixelData = (before if after is None else after).astype(np.uint16).tobytes()
        image.save_as(path)
    return out


def shifted_lesion(_: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    pixels[LESION] += 6
    return pixels


def more_noise(_: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    added = np.random.default_rng(7).normal(0, NOISE * np.sqrt(1.1**2 - 1), pixels.shape)
    return pixels + np.rint(added * (body() > -500)).clip(-60, 60).astype(int)


def pattern(_: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    """Add stripes of three voxels whose SD is 0.27 of the noise's: +3.6 % SD, +7.3 % power."""
    stripes = np.resize([1.0, 1.0, -2.0], SIZE) / np.sqrt(2) * 0.27 * NOISE
    return pixels + np.rint(stripes[None, :] * (body() > -500)).astype(int)


def wrapped(_: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    pixels[80, 80] = (pixels[80, 80] + 2048) % 4096
    return pixels


def background(_: pydicom.Dataset, pixels: np.ndarray) -> np.ndarray:
    pixels[2, 2] += 1
    return pixels


def private(image: pydicom.Dataset, _: np.ndarray) -> None:
    element = next(e for e in image if e.tag.is_private and e.VR == "LO" and e.tag.element > 0xFF)
    element.value = "changed"


HARMS: dict[str, tuple[Edit, int, int]] = {
    "mean shift of 6 HU in a lesion": (shifted_lesion, 3, 5),
    "10 % more noise": (more_noise, 4, 5),
    "a structured pattern of 3 voxels": (pattern, 5, 5),
    "a wrapped value": (wrapped, 2, 9),
    "one changed background voxel": (background, 2, 9),
    "one changed private attribute": (private, 1, 9),
}


def verdicts(export: Path, out: Path, rows: str, *more: object) -> tuple[int, dict[str, str], str]:
    words = ["verify", export / "source", out, "--json", "--progress=none", f"--rows={rows}"]
    found = run(*words, "--regions", export / "regions", *more)
    series = json.loads(found.stdout.splitlines()[0])
    return found.exit_code, series["verdicts"], " ".join(series["missed"])


@pytest.mark.parametrize("name", HARMS)
def test_a_harm_fails_its_row_and_no_other(export, tmp_path, name):
    harm, row, code = HARMS[name]
    rows = WITH_SPECTRUM if row == 5 else DEFAULT
    found, each, missed = verdicts(export, planted(export, tmp_path, harm), rows)
    assert each.keys() == {*rows.split(",")}
    assert "not measured" not in each.values()
    failed = {key for key, verdict in each.items() if verdict in ("missed", "wrong")}
    assert failed == {str(row)}, missed
    assert found == code


def test_without_a_harm_nothing_fails(export, tmp_path):
    out = planted(export, tmp_path, lambda _, pixels: pixels)
    code, each, _ = verdicts(export, out, WITH_SPECTRUM)
    assert (code, set(each.values())) == (0, {"met"})


@pytest.mark.parametrize("name", ["mean shift of 6 HU in a lesion", "10 % more noise"])
def test_a_users_limits_decide(export, tmp_path, name):
    harm, row, _ = HARMS[name]
    loose = tmp_path / "loose.toml"
    loose.write_text(
        "[CT.limits]\nregion_shift = { at_most = 7, unit = 'HU' }\n"
        "tissue_shift = { at_most = 7, unit = 'HU' }\n"
        "[all.limits]\nnoise_sd = { at_most = 12, unit = '%' }\n"
    )
    out = planted(export, tmp_path, harm)
    code, each, _ = verdicts(export, out, DEFAULT, "--limits", loose)
    assert code == 0
    assert each[str(row)] in ("met", "not as wanted")


def test_the_wrapped_value_spoils_no_other_number(export, tmp_path):
    words = ["verify", export / "source", planted(export, tmp_path, wrapped), "--json"]
    series = json.loads(run(*words, "--progress=none").stdout.splitlines()[0])
    codes = {finding["code"] for finding in series["findings"]}
    assert codes == {"WRAPPED", "BUDGET_EXCEEDED"}
    assert series["fidelity"]["largest_change"] == 0.0
