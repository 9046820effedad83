"""Speed of `verify`: all of it, rows 1-4 and 7-9, against reading source and output once.

Run: .venv/bin/python benchmarks/verify.py [--repeats 5] [--jobs 2]
     [--syntax uncompressed --slices 300 --series 1]: this case only, and nothing is written
Reading is `read_series` of both copies, which decodes, hashes, orders and stacks them, in one
process. Everything runs in a process of its own and is timed after its imports, in turns; the disk
cache is warm. Two ratios to reading are told, medians of the turns' ratios:

- of the clock, with the processes that `verify` takes by default or that --jobs says: how long
  somebody waits;
- of processor time, user and system, of all its processes, alone and with --jobs: what it costs.

`command_s` is the clock of `salm-dicom verify` as a whole, start and imports included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDE = 512
ROWS = (1, 2, 3, 4, 7, 8, 9)
WANTED = 2.0
RESULTS = ROOT / "benchmarks" / "results" / "verify.json"

sys.path.insert(0, str(ROOT))  # for tests.synthetic

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless  # noqa: E402

from benchmarks.measured import compile_bytecode, write_results  # noqa: E402
from salm_dicom.batch.compared import Scope  # noqa: E402
from salm_dicom.batch.protect import Request, protect  # noqa: E402
from salm_dicom.batch.verify import verify  # noqa: E402
from salm_dicom.cli.options import creation_time  # noqa: E402
from salm_dicom.dicom.derive import PUBLIC_SITE_KEY  # noqa: E402
from salm_dicom.dicom.series import read_series  # noqa: E402
from salm_dicom.fidelity import Limits  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from tests.synthetic import write_ct_series  # noqa: E402

SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "JPEG 2000": JPEG2000Lossless}
# Transfer syntax, slices, and among how many series they are.
CASES = (("uncompressed", 300, 1), ("JPEG 2000", 40, 1), ("uncompressed", 600, 12))


def prepared(folder: Path, syntax: str, slices: int, series: int) -> tuple[Path, Path]:
    """Return a source, of so many slices in so many series, and its protected copy."""
    source, output = folder / "source", folder / "out"
    for number in range(series):
        write_ct_series(
            source / str(number),
            slices=slices // series,
            rows=SIDE,
            columns=SIDE,
            transfer_syntax=syntax,
            series_number=number + 1,
        )
    request = Request(
        source=source,
        output=output,
        vault=folder / "vault",
        plan=ProtectionPlan(method="random"),
        protector=None,
        labels=None,
        created=creation_time("2026-01-01T00:00:00+00:00"),
        site_key=PUBLIC_SITE_KEY,
    )
    protect(request)
    return source, output


def read_both(source: Path, output: Path) -> None:
    """Read every series of both copies."""
    for place in (source, output):
        for folder in sorted({path.parent for path in place.rglob("*.dcm")}):
            read_series(sorted(folder.glob("*.dcm")))


def work(words: str, source: Path, output: Path) -> Callable[[], Any]:
    """Return what one process of a turn does: `read`, or `verify ROWS JOBS`."""
    if words == "read":
        return lambda: read_both(source, output)
    _, rows, jobs = words.split()
    scope = Scope(rows=frozenset(map(int, rows.split(","))))
    return lambda: verify(source, output, Limits(), scope=scope, jobs=int(jobs))


def processor_seconds() -> float:
    """Return the processor time, user and system, of this process and those that it ended."""
    each = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in each)


def timed(action: Callable[[], Any]) -> None:
    """Do it and print its times."""
    processor, clock = processor_seconds(), time.perf_counter()
    action()
    clock = time.perf_counter() - clock
    print(json.dumps({"clock_s": clock, "processor_s": processor_seconds() - processor}))


def in_a_process(words: str, source: Path, output: Path) -> dict[str, float]:
    """Return the times of some work, done in a process of its own."""
    command = [sys.executable, __file__, "--work", words, str(source), str(output)]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(said.stdout)
    return found


def command_seconds(source: Path, output: Path, jobs: int) -> float:
    """Return the clock of the command, from its start to its end."""
    rows = ",".join(map(str, ROWS))
    words = ["verify", source, output, "--rows", rows, f"--jobs={jobs}", "--json"]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "salm_dicom", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def measured(name: str, slices: int, series: int, repeats: int, jobs: int) -> dict[str, Any]:
    """Return the medians of one case."""
    rows = ",".join(map(str, ROWS))
    todo = {
        "read_both": "read",
        "rows_1_2": f"verify 1,2 {jobs}",
        "rows_1_4_7_9": f"verify {rows} {jobs}",
        "rows_1_4_7_9_alone": f"verify {rows} 1",
    }
    with tempfile.TemporaryDirectory() as folder:
        source, output = prepared(Path(folder), SYNTAXES[name], slices, series)
        in_a_process("read", source, output)
        turns, commands = [], []
        for _ in range(repeats):
            turns.append(
                {title: in_a_process(words, source, output) for title, words in todo.items()}
            )
            commands.append(command_seconds(source, output, jobs))
    row: dict[str, Any] = {"syntax": name, "slices": slices, "series": series, "jobs": jobs}
    row["command_s"] = round(median(commands), 3)
    for title in todo:
        for kind in ("clock", "processor"):
            key = f"{kind}_s"
            row[f"{title}_{key}"] = round(median(turn[title][key] for turn in turns), 3)
            if title != "read_both":
                ratios = (turn[title][key] / turn["read_both"][key] for turn in turns)
                row[f"{title}_{kind}_ratio"] = round(median(ratios), 3)
    return row


def main() -> None:
    """Print a line for each case, with whether the goal is met, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--syntax", choices=SYNTAXES)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--series", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        words, source, output = asked.work
        timed(work(words, Path(source), Path(output)))
        return
    compile_bytecode()
    rows = []
    chosen = ((asked.syntax, asked.slices, asked.series),) if asked.syntax else CASES
    for case in chosen:
        row = measured(*case, asked.repeats, asked.jobs)
        row["wanted"] = WANTED
        row["is_met_by_the_clock"] = row["rows_1_4_7_9_clock_ratio"] <= WANTED
        row["is_met_by_processor_time"] = row["rows_1_4_7_9_alone_processor_ratio"] <= WANTED
        rows.append(row)
        print(json.dumps(row), flush=True)
    if asked.syntax:
        return
    libraries = ("numpy", "pydicom", "SimpleITK", "pylibjpeg-openjpeg")
    write_results(RESULTS, libraries, repeats=asked.repeats, rows=rows)


if __name__ == "__main__":
    main()
