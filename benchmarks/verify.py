"""Speed of `verify`: all of it, rows 1-4 and 7-9, against reading source and output once.

Run: .venv/bin/python benchmarks/verify.py [--slices 300] [--series 1] [--repeats 5]
     [--syntax uncompressed] [--jobs 2]
Reading is `read_series` of both copies, which decodes, hashes, orders and stacks them, in this
process. Ratios are of processor time; with `--jobs` those of the clock are told too: workers start
anew for each run. A series is looked at by one process, so that `--jobs` wants `--series`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIDE = 512
ROWS = frozenset({1, 2, 3, 4, 7, 8, 9})
WANTED = 2.0

sys.path.insert(0, str(ROOT))  # for tests.synthetic

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless  # noqa: E402

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


def seconds(action: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return the time of an action."""
    start = clock()
    action()
    return clock() - start


def read_both(source: Path, output: Path) -> None:
    """Read every series of both copies."""
    for place in (source, output):
        for folder in sorted({path.parent for path in place.rglob("*.dcm")}):
            read_series(sorted(folder.glob("*.dcm")))


def measured(name: str, slices: int, series: int, repeats: int, jobs: int) -> dict[str, Any]:
    """Return the times of one transfer syntax: medians, and the medians of the ratios.

    Reading and verifying take turns, so that neighbours on the machine slow both down.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, output = prepared(Path(folder), SYNTAXES[name], slices, series)
        actions: dict[str, Callable[[], Any]] = {"read_both": lambda: read_both(source, output)}
        for title, rows in (("rows_1_2", frozenset({1, 2})), ("rows_1_4_7_9", ROWS)):
            scope = Scope(rows=rows)
            actions[title] = lambda scope=scope: verify(source, output, Limits(), scope=scope)
        actions["read_both"]()
        row: dict[str, Any] = {"syntax": name, "slices": slices, "series": series}
        row |= in_turns(actions, time.process_time, repeats)
        if jobs:
            scope = Scope(rows=ROWS)
            clocked = {
                "read_both": actions["read_both"],
                "one": lambda: verify(source, output, Limits(), scope=scope),
                f"jobs_{jobs}": lambda: verify(source, output, Limits(), scope=scope, jobs=jobs),
            }
            found = in_turns(clocked, time.perf_counter, repeats)
            row |= {f"clock_{title}": value for title, value in found.items()}
        return row


def in_turns(
    actions: dict[str, Callable[[], Any]], clock: Callable[[], float], repeats: int
) -> dict[str, float]:
    """Return the median time of each action, and of its ratio to reading."""
    turns = [{title: seconds(do, clock) for title, do in actions.items()} for _ in range(repeats)]
    row = {}
    for title in actions:
        row[f"{title}_s"] = round(median(turn[title] for turn in turns), 3)
        ratio = median(turn[title] / turn["read_both"] for turn in turns)
        row |= {} if title == "read_both" else {f"ratio_{title}": round(ratio, 2)}
    return row


def main() -> None:
    """Print a line for each transfer syntax, and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--series", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--syntax", choices=SYNTAXES, action="append", default=None)
    asked = parser.parse_args()
    for name in asked.syntax or SYNTAXES:
        row = measured(name, asked.slices, asked.series, asked.repeats, asked.jobs)
        row["wanted"], row["is_met"] = WANTED, row["ratio_rows_1_4_7_9"] <= WANTED
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
