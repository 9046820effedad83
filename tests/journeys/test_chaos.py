"""Kill -9 at any moment, and a full disk: a second run makes what an undisturbed one would have."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from salm_dicom.dicom.header import identity_of
from salm_dicom.dicom.part10 import read
from tests.synthetic import write_ct_series

SERIES = 8
KILLS = 20
linux = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc to find processes")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos") / "source"
    for index in range(SERIES):
        write_ct_series(
            folder / str(index), slices=4, rows=96, columns=96, patient_id=f"P{index}", seed=index
        )
    return folder


@pytest.fixture(scope="module")
def whole(source: Path) -> tuple[dict[str, str], float]:
    """What an uninterrupted run makes, and how long it takes."""
    output = source.parent / "whole"
    began = time.monotonic()
    process = start(source, output)
    assert process.wait(120) == 0
    return digests(output), time.monotonic() - began


def start(source: Path, output: Path) -> subprocess.Popen[bytes]:
    words = ["protect", source, "-o", output, "--method=random", "--jobs=2", "--progress=none"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    return subprocess.Popen(
        [sys.executable, "-m", "salm_dicom", *map(str, words)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def below(process: int) -> Iterator[int]:
    """Yield the processes that a process started, and those that they did."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from below(int(child))


def alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def nothing_temporary(output: Path) -> bool:
    vault = output.with_name(f"{output.name}.vault")
    return not [*output.rglob("*.partial"), *vault.rglob("*.partial")]


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_driver_killed_at_any_moment_leaves_nothing_that_a_second_run_does_not_mend(
    source, whole, tmp_path, number
):
    wanted, seconds = whole
    output = tmp_path / "out"
    process = start(source, output)
    time.sleep(random.Random(number).uniform(0.1, seconds))
    workers = list(below(process.pid))
    process.kill()
    process.wait()
    again = start(source, output)
    assert again.wait(120) == 0
    assert digests(output) == wanted
    assert nothing_temporary(output)
    uids = [identity_of(read(path)).sop_uid for path in output.rglob("*.dcm")]
    assert len(uids) == len(set(uids)) == SERIES * 4
    until = time.monotonic() + 10
    while time.monotonic() < until and any(map(alive, workers)):
        time.sleep(0.05)
    assert not any(map(alive, workers)), "workers of the killed run are still there"


@linux
@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_outlives_any_of_its_processes_that_is_killed_at_any_moment(
    source, whole, tmp_path, number
):
    wanted, seconds = whole
    output, lots = tmp_path / "out", random.Random(100 + number)
    process = start(source, output)
    until = time.monotonic() + seconds
    time.sleep(lots.uniform(0.2, seconds))
    while not (there := list(below(process.pid))) and time.monotonic() < until:
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(lots.choice(there), signal.SIGKILL)
    assert process.wait(120) == 0
    assert digests(output) == wanted
    assert nothing_temporary(output)


@contextlib.contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[Path]:
    """Give a folder that is a file system of its own, of a size as `mount` takes it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted: it takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", "600k") as folder:
        yield folder


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_run_with_7_and_room_completes_it(source, whole, small_disk):
    output = small_disk / "out"
    assert start(source, output).wait(120) == 7
    assert list(output.rglob("*.dcm")), "it was full before anything was done"
    assert nothing_temporary(output)
    done = digests(output)
    assert done.items() <= whole[0].items()
    bigger = ["mount", "-o", "remount,size=20m", str(small_disk)]
    subprocess.run(bigger, check=True)
    assert start(source, output).wait(120) == 0
    assert digests(output) == whole[0]
    assert nothing_temporary(output)
