"""`salm-dicom fit` that is killed, or has no disk space: the same command goes on, same bytes."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.test_chaos import alive, below, digests, linux, small_file_system
from tests.synthetic import write_ct_series

SERIES = 6
ROUNDS = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed") / "source"
    rows = []
    for index in range(SERIES):
        paths = folder / f"{index}"
        write_ct_series(paths, slices=6, rows=96, columns=96, patient_id=f"P{index}", seed=index)
        rows.append(f"{index},{'ab'[index % 2]}\n")
    (folder.parent / "labels.csv").write_text("key,label\n" + "".join(rows))
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, str]:
    """What an uninterrupted fit makes, in one process."""
    assert start(source, source.parent / "whole", jobs=1).wait(300) == 0
    return digests(source.parent / "whole")


def start(source: Path, output: Path, jobs: int) -> subprocess.Popen[bytes]:
    words = [
        "fit", source, "-o", output, "--labels", source.parent / "labels.csv", "--labels-by=path",
        f"--rounds={ROUNDS}", "--steps=4", "--slice-size", "32", "32", f"--jobs={jobs}",
        "--progress=none",
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "salm_dicom", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def rounds_done(output: Path) -> int:
    """Return how many rounds were measured."""
    folder = output / "fit" / "slice"
    if (folder / "surrogate.safetensors").exists():
        return ROUNDS
    reached = folder / "reached.json"
    return json.loads(reached.read_text())["rounds"] if reached.exists() else 0


@linux
@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fit_that_is_killed_again_and_again_makes_what_an_undisturbed_one_does(
    source, whole, tmp_path, jobs
):
    output, lots, kills = tmp_path / "protector", random.Random(jobs), 0
    while True:
        process, before = start(source, output, jobs), rounds_done(output)
        while process.poll() is None and rounds_done(output) < before + (1 if kills else 0):
            time.sleep(0.02)
        time.sleep(lots.uniform(0.0, 0.5))
        workers = list(below(process.pid))
        process.kill()
        killed = process.wait(60) != 0
        kills += killed
        # also one that was killed when all it had left to do was to say so
        if not killed or ((output / "protector.json").exists() and not (output / "fit").exists()):
            break
        assert kills < 20, "it does not get on"
    assert kills >= 3
    assert digests(output) == whole
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(alive, workers)):
        time.sleep(0.05)
    assert not any(map(alive, workers)), "workers of a killed fit are still there"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the samples, and for little more."""
    with small_file_system(tmp_path / "disk", "4m") as folder:
        yield folder


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_a_fit_with_7_and_room_completes_it(source, whole, small_disk):
    output = small_disk / "protector"
    assert start(source, output, jobs=1).wait(300) == 7
    assert list(output.rglob("*.partial")) == []
    assert (output / "fit" / "about.json").exists()
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    assert start(source, output, jobs=1).wait(300) == 0
    assert digests(output) == whole
