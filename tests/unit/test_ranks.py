"""A fit whose processes `torchrun` started: same bytes as one, also after one was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from salm_dicom.batch import ranks
from tests.journeys.test_chaos import alive, below, digests
from tests.synthetic import write_ct_series

pytestmark = [pytest.mark.loopback, pytest.mark.slow]

# How a rank takes part: prints what `each` of these functions makes of numbers.
SCRIPT = """
import os, sys
from pathlib import Path
from salm_dicom.batch import ranks
from salm_dicom.errors import SalmDicomError

class Needy(int):
    places = (Path("/nowhere/at/all"),)

def squared(number):
    return number * number, os.environ["RANK"]

def failing(number):
    if number == 70:
        raise ZeroDivisionError("seventy")
    return number

def unsendable(number):
    return lambda: number

if not ranks.is_first():
    ranks.serve()
else:
    with ranks.leading() as some:
        print(list(some.each(squared, [])))
        found = list(some.each(squared, range(300)))
        print([one for one, _ in found] == [n * n for n in range(300)])
        print(sorted({rank for _, rank in found}))
        for work, parts in ((failing, range(100)), (unsendable, [1]), (squared, [Needy(1)])):
            try:
                list(some.each(work, parts))
            except Exception as error:
                print(type(error).__name__, error)
        print(len(list(some.each(failing, range(3)))))
# a thread of gloo that is left aborts the process now and then, as the interpreter ends
import torch
assert not torch.distributed.is_initialized()
"""


def torchrun(*command: str | Path) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        *map(str, command),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "source"
    for index in range(6):
        paths = folder / f"{index}"
        write_ct_series(paths, slices=6, rows=96, columns=96, patient_id=f"P{index}", seed=index)
    rows = "".join(f"{index},{'ab'[index % 2]}\n" for index in range(6))
    (folder.parent / "labels.csv").write_text("key,label\n" + rows)
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> dict[str, str]:
    """What one process makes."""
    output = source.parent / "whole"
    command = [sys.executable, "-m", *fit(source, output), "--jobs=1"]
    subprocess.run(command, check=True, capture_output=True)
    return digests(output)


def fit(source: Path, output: Path, *, steps: int = 4) -> Sequence[str]:
    words = (
        "salm_dicom", "fit", source, "-o", output, "--labels", source.parent / "labels.csv",
        "--labels-by=path", "--rounds=3", f"--steps={steps}", "--slice-size", "32", "32",
        "--progress=none",
    )  # fmt: skip
    return [str(word) for word in words]


def has_samples(output: Path) -> bool:
    """Return whether a fit has read any; folders may come and go meanwhile."""
    try:
        return any(output.rglob("*.npy"))
    except OSError:
        return False


def rank_1(agent: int) -> int:
    """Return the process of the second rank below `torchrun`, once it is there."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for process in below(agent):
            try:
                settings = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"RANK=1" in settings:
                return process
        time.sleep(0.02)
    raise AssertionError("there is no second rank")


def test_two_processes_make_the_protector_of_one(source, whole, tmp_path):
    output = tmp_path / "protector"
    done = subprocess.run(torchrun("-m", *fit(source, output)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fitted on 6 series") == 1
    assert digests(output) == whole


def test_a_rank_that_is_killed_ends_all_and_the_same_command_goes_on(source, whole, tmp_path):
    output = tmp_path / "protector"
    with subprocess.Popen(
        torchrun("-m", *fit(source, output)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as agent:
        until = time.monotonic() + 120
        while time.monotonic() < until and not has_samples(output):
            time.sleep(0.02)
        all_of_them = [*below(agent.pid)]
        os.kill(rank_1(agent.pid), signal.SIGKILL)
        assert agent.wait(120) != 0
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(alive, all_of_them)):
        time.sleep(0.05)
    assert not any(map(alive, all_of_them))
    assert not (output / "protector.json").exists()
    again = subprocess.run(torchrun("-m", *fit(source, output)), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert digests(output) == whole


def test_parts_come_back_in_order_and_errors_as_they_are(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    settings = os.environ | {"PYTHONPATH": str(Path(ranks.__file__).parents[2])}
    done = subprocess.run(torchrun(script), capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[]", "True", "['0', '1']", "ZeroDivisionError seventy",
        "RuntimeError an unforeseen AttributeError",
        "PlanError a process of torchrun does not see the folder of the protector; it must lie "
        "under the same path on every machine",
        "3",
    ]  # fmt: skip


def test_how_many_processes_there_are_says_torchrun_alone(source, tmp_path):
    output = tmp_path / "protector"
    command = torchrun("-m", *fit(source, output), "--jobs=2")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.count("torchrun says how many processes there are: leave out --jobs") == 1
    assert not output.exists()


@pytest.mark.parametrize(("seen", "mine"), [(None, "1"), ("4,7,9", "7"), ("3", "")])
def test_each_rank_sees_one_gpu(monkeypatch, seen, mine):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    ranks.use_own_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == mine


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not ranks.is_one_of_many()
    monkeypatch.setenv("WORLD_SIZE", "2")  # of something else
    assert not ranks.is_one_of_many()
