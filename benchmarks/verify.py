"""Speed of `verify`: all of it, rows 1-4 and 7-9, against reading source and output once.

Run: .venv/bin/python benchmarks/verify.py [--slices 300] [--repeats 5] [--syntax uncompressed]
Reading is `read_series` of both copies, which decodes, hashes, orders and stacks them.
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


def prepared(folder: Path, syntax: str, slices: int) -> tuple[Path, Path]:
    """Return a source and its protected copy."""
    source, output = folder / "source", folder / "out"
    write_ct_series(source, slices=slices, rows=SIDE, columns=SIDE, transfer_syntax=syntax)
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


def seconds(action: Callable[[], Any]) -> float:
    """Return the processor time of an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


def measured(name: str, slices: int, repeats: int) -> dict[str, Any]:
    """Return the times of one transfer syntax: medians, and the medians of the ratios.

    Reading and verifying take turns, so that neighbours on the machine slow both down.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, output = prepared(Path(folder), SYNTAXES[name], slices)
        copies = [sorted(place.rglob("*.dcm")) for place in (source, output)]
        actions: dict[str, Callable[[], Any]] = {
            "read_both": lambda: [read_series(paths) for paths in copies]
        }
        for title, rows in (("rows_1_2", frozenset({1, 2})), ("rows_1_4_7_9", ROWS)):
            scope = Scope(rows=rows)
            actions[title] = lambda scope=scope: verify(source, output, Limits(), scope=scope)
        actions["read_both"]()
        turns = [{title: seconds(do) for title, do in actions.items()} for _ in range(repeats)]
        row: dict[str, Any] = {"syntax": name, "slices": slices}
        for title in actions:
            row[f"{title}_s"] = round(median(turn[title] for turn in turns), 3)
            ratio = median(turn[title] / turn["read_both"] for turn in turns)
            row |= {} if title == "read_both" else {f"ratio_{title}": round(ratio, 2)}
        return row


def main() -> None:
    """Print a line for each transfer syntax, and whether the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--syntax", choices=SYNTAXES, action="append", default=None)
    asked = parser.parse_args()
    for name in asked.syntax or SYNTAXES:
        row = measured(name, asked.slices, asked.repeats)
        row["wanted"], row["is_met"] = WANTED, row["ratio_rows_1_4_7_9"] <= WANTED
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
