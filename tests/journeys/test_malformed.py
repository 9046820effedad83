"""Hundreds of damaged files beside good series: each is listed, the good ones are protected."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from tests.synthetic import write_ct_series

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
DAMAGED = 640
# Bytes of the preamble and prefix: a file that lost them is no DICOM, which is one case of many.
_START = 132
_SIZES = (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x08\x00")


def cut(data: bytearray, lots: random.Random) -> None:
    del data[lots.randrange(len(data)) :]


def flipped(data: bytearray, lots: random.Random) -> None:
    for _ in range(lots.randrange(1, 20)):
        data[lots.randrange(_START, len(data))] = lots.randrange(256)


def false_length(data: bytearray, lots: random.Random) -> None:
    place = lots.randrange(_START, len(data))
    data[place : place + 4] = b"\xff\xff\xff\x7f"


def hole(data: bytearray, lots: random.Random) -> None:
    place = lots.randrange(_START, len(data))
    del data[place : place + lots.randrange(1, 50)]


def swollen(data: bytearray, lots: random.Random) -> None:
    place = lots.randrange(_START, len(data))
    data[place:place] = lots.randbytes(lots.randrange(1, 200))


def huge(data: bytearray, lots: random.Random) -> None:
    for tag in _SIZES:
        place = data.find(tag)
        if place > 0:
            data[place + 8 : place + 10] = b"\xff\xff"


def noise(data: bytearray, lots: random.Random) -> None:
    data[_START:] = lots.randbytes(lots.randrange(3000))


def shuffled(data: bytearray, lots: random.Random) -> None:
    for _ in range(5):
        to, start = lots.randrange(_START, len(data)), lots.randrange(_START, len(data))
        data[to : to + 20] = data[start : start + 20]


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    cut, flipped, false_length, hole, swollen, huge, noise, shuffled,
)  # fmt: skip


def with_own_uids(data: bytes, number: int) -> bytes:
    """Return a file that is an instance of its own, so that it is judged by its damage alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, force=True)
            uids = [str(header.get(k, "")) for k in ("SOPInstanceUID", "SeriesInstanceUID")]
        except Exception:  # some of pydicom's own test files are damaged already
            return data
    for uid in uids:
        if len(uid) > 10:
            new = f"{uid[:-6].rstrip('.')}1{number:05d}".ljust(len(uid), "1")[: len(uid)]
            data = data.replace(uid.encode(), new.encode())
    return data


def write_damaged(folder: Path, whole: list[bytes], seed: int) -> None:
    lots = random.Random(seed)
    folder.mkdir()
    for number in range(DAMAGED):
        data = bytearray(with_own_uids(lots.choice(whole), number))
        DAMAGES[number % len(DAMAGES)](data, lots)
        (folder / f"{number:04d}").write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [7, 8])
def test_every_damaged_file_is_listed_and_the_good_ones_are_protected(tmp_path, seed):
    export, report = tmp_path / "export", tmp_path / "report"
    good = write_ct_series(export / "a", patient_id="A", seed=1)
    good += write_ct_series(export / "b", patient_id="B", seed=2)
    whole = [path.read_bytes() for path in good[:1]]
    whole += [p.read_bytes() for p in sorted(WHEEL.glob("*.dcm")) if p.stat().st_size < 60_000]
    write_damaged(export / "damaged", whole, seed)
    words = ["protect", export, "-o", tmp_path / "out", "--method=random", "--progress=none"]
    began = time.monotonic()
    with report.open("wb") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "salm_dicom", *map(str, words), "--json", "--jobs=2"],
            stdout=stdout, stderr=subprocess.PIPE,
        )  # fmt: skip
        said = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 3, said[-2000:]
    assert "Traceback" not in said
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    left_out = {Path(row["path"]): row["code"] for row in rows if row["type"] == "left_out"}
    copied = [row for row in rows if row["type"] == "object"]
    protected = sum(row["instances"] for row in rows if row["type"] == "series")
    assert len(left_out) + len(copied) + protected >= DAMAGED + len(good)
    assert not left_out.keys() & set(good)
    assert not set(left_out.values()) & {"E_UNEXPECTED", "E_MISMATCH"}
    assert len(set(left_out.values())) > 8, "the damage is all of one kind"
    assert usage.ru_maxrss < 2 * 1024**2, "kilobytes of the largest process"
    assert time.monotonic() - began < 300, "something hung"
