"""Fuzz scan, read, protect and copy with mutated files: `make fuzz`, 60 s.

    python -m tests.fuzz [--seconds 60] [--seed N] [--keep FOLDER]
    python -m tests.fuzz --file FOLDER/00012-0003.bin     # one case again

What must hold for any bytes: only errors with a code of ours come out, none of them unforeseen; no
case takes long or much memory; no process dies; no message quotes the file. Decoders of compressed
pixels run in the sandbox, as with `--sandbox`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from salm_dicom.dicom.derive import Derivation
from salm_dicom.dicom.objects import ObjectHeader, copied
from salm_dicom.dicom.part10 import read
from salm_dicom.dicom.sandbox import sandboxed
from salm_dicom.dicom.scan import scan
from salm_dicom.dicom.series import read_series, write_series
from salm_dicom.errors import InputError, MismatchError, PlanError
from salm_dicom.nifti.series import read_nifti
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.trace import frames
from salm_dicom.volume import Integers, StoredPixels
from tests.fuzz_cases import CANARY, case, corpus

# Longest and largest that a step of a case may be; damaged JPEG-LS keeps CharLS busy for 6 s.
SECONDS, MEGABYTES = 20, 1500
# So long a case may hang where no signal reaches it.
_HUNG_SECONDS = 60
_CASES_EACH_PROCESS = 500


def check(data: bytes, folder: Path) -> Iterator[str]:
    """Yield what is wrong with how one file is treated; nothing when all is well."""
    shutil.rmtree(folder, ignore_errors=True)
    source = folder / "in" / "case"
    source.parent.mkdir(parents=True)
    source.write_bytes(data)
    for name, attempt in {"scan": _scan, "read": _read, "nifti": _nifti}.items():
        began, messages = time.monotonic(), list[str]()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            messages = attempt(source)
        except (InputError, MismatchError, PlanError) as error:
            messages = [str(error)]
        except BaseException:  # TimeoutError too
            yield f"{name}: {frames()}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if time.monotonic() - began > SECONDS:
            yield f"{name}: took longer than {SECONDS} s"
        yield from (f"{name}: {text}" for text in messages if _is_wrong(text))


def _is_wrong(message: str) -> bool:
    return any(word in message for word in (CANARY, "Traceback", "unforeseen", "\x1b"))


def _scan(source: Path) -> list[str]:
    """Scan the folder of a file, protect or copy what is in it, and return every message."""
    found = scan(source.parent, allow_quantitative=True)
    inside = [path for series in found.series for path in series.paths]
    listed = [*inside, *(e.path for e in (*found.left_out, *found.objects)), *found.indexes]
    messages = [entry.reason for entry in found.left_out]
    if listed != [source]:
        messages.append(f"unforeseen: a file is listed {len(listed)} times")
    for series in found.series:
        messages += _outcome(lambda paths=series.paths: _protect(paths))
    for one in found.objects:
        messages += _outcome(lambda one=one: _copy(one))
    return messages


def _outcome(attempt: Callable[[], object]) -> list[str]:
    try:
        attempt()
    except (InputError, MismatchError, PlanError) as error:
        return [str(error)]
    return []


def _protect(paths: tuple[Path, ...]) -> None:
    series = read_series(paths, keep_files=True)
    protector = Protector(plan=ProtectionPlan(method="random"))
    found = protector.apply(series.volume, series_uid=series.series_uid)

    def change_of(index: int, before: StoredPixels) -> Integers:
        return found.delta[index : index + len(before.values)]

    derivation = Derivation(
        record=found.record, created=datetime(2026, 1, 2, tzinfo=UTC), site_key=b"fuzz"
    )
    write_series(series.origin, change_of, paths[0].parents[1] / "out", derivation)


def _copy(one: ObjectHeader) -> None:
    copied(read(one.path), lambda uid: f"{uid[:60]}.1", datetime(2026, 1, 2, tzinfo=UTC), "a" * 64)


def _read(source: Path) -> list[str]:
    read_series([source])
    return []


def _nifti(source: Path) -> list[str]:
    read_nifti(source, "CT")
    return []


def run(seed: int, first: int, stop: int, until: float, note: Callable[[Any], None]) -> None:
    """Run cases `first` to `stop`, or until a time; note each before it runs, and what it found."""
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as place, sandboxed(True):
        files = corpus(Path(place) / "corpus")
        for number in range(first, stop):
            if time.time() > until:
                break
            note({"case": number})
            for found in check(case(files, seed, number), Path(place) / "case"):
                note({"case": number, "found": found})
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if peak > MEGABYTES:
                note({"case": number, "found": f"took {peak} MB"})
                break  # a peak stays: go on in a new process


def _late(*_: object) -> None:
    raise TimeoutError


def fuzz(seconds: float, seed: int, keep: Path) -> dict[str, int]:
    """Return what was found, with the first case of each, and keep those cases in a folder."""
    found: dict[str, int] = {}
    until, first = time.time() + seconds, 0
    while time.time() < until:
        stop = first + _CASES_EACH_PROCESS
        last, rows = first, list[dict[str, Any]]()
        words = ["--seed", seed, "--cases", first, stop, "--until", until]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz", *map(str, words)], stdout=subprocess.PIPE
        )
        signal.signal(signal.SIGALRM, lambda *_, one=process: one.kill())
        assert process.stdout is not None
        for line in process.stdout:
            signal.alarm(_HUNG_SECONDS)
            rows.append(json.loads(line))
            last = rows[-1]["case"]
        signal.alarm(0)
        if process.wait():
            rows.append({"case": last, "found": f"the process died ({process.returncode})"})
        for row in rows:
            if "found" in row and row["found"] not in found:
                found[row["found"]] = row["case"]
                _keep(keep, seed, row["case"])
        first = last + 1
    print(f"{first} cases with seed {seed}, {len(found)} findings")
    for text, number in sorted(found.items()):
        print(f"  {keep / name_of(seed, number)}: {text}")
    return found


def name_of(seed: int, number: int) -> str:
    """Return the name under which a case is kept."""
    return f"{seed}-{number:06d}.bin"


def _keep(folder: Path, seed: int, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        data = case(corpus(Path(place)), seed, number)
    (folder / name_of(seed, number)).write_bytes(data)


def main() -> int:
    """Fuzz, or run cases for a process that does, or one kept case."""
    parser = argparse.ArgumentParser(description="Fuzz scan, read, protect and copy.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path, default=Path("fuzz_findings"))
    parser.add_argument("--file", type=Path)
    parser.add_argument("--cases", type=int, nargs=2)
    parser.add_argument("--until", type=float)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.file:
        signal.signal(signal.SIGALRM, _late)
        with tempfile.TemporaryDirectory() as place, sandboxed(True):
            found = list(check(asked.file.read_bytes(), Path(place)))
        print("\n".join(found) or "nothing wrong")
        return bool(found)
    if asked.cases:
        run(asked.seed, *asked.cases, asked.until, lambda row: print(json.dumps(row), flush=True))
        return 0
    return bool(fuzz(asked.seconds, asked.seed, asked.keep))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
