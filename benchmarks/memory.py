"""Memory of a worker by size of series, against what `--max-memory` counts on.

Run: .venv/bin/python benchmarks/memory.py
Each series is protected in a process of its own, as a worker does it; its peak is compared with
`batch.bounds.memory_of`, which must not be less.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import compile_bytecode, run, write_results  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402

LIBRARIES = ("salm_dicom", "pydicom", "numpy", "torch", "monai")
# By method, extent and surrogates: slices of the series, and rows (columns, too) of each.
SIZES = {
    ("random", "slice", "one"): ((50, 512), (200, 512), (400, 512), (1, 3072)),
    ("salm", "slice", "one"): ((50, 512), (200, 512), (1, 1024), (1, 3072)),
    ("salm", "volume", "one"): ((16, 512), (48, 512)),
    ("salm", "slice", "fresh"): ((50, 512), (200, 512), (100, 64), (1, 1024), (1, 3072)),
    ("salm", "volume", "fresh"): ((16, 512), (48, 512)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One series."""

    method: str
    extent: str
    surrogates: str
    slices: int
    side: int
    peak_mb: float
    counted_mb: float


def plan(method: str, extent: str, surrogates: str) -> ProtectionPlan:
    """Return settings that need as much memory as the usual ones, and less time."""
    return ProtectionPlan(
        method=method, extent=extent, surrogates=surrogates, steps=2, rounds=1, batches=1
    )


def prepare(folder: Path, method: str, extent: str, surrogates: str) -> None:
    """Write a protector that was fitted on two tiny series."""
    from salm_dicom.dicom.series import read_series
    from salm_dicom.protector import Protector, lesson, save
    from salm_dicom.protector.fit import Study, fit
    from tests.synthetic import write_ct_series

    settings = plan(method, extent, surrogates)
    lesson._BATCHES = lesson._MOST_BATCHES = 1
    if not settings.needs_surrogate:
        save(Protector(plan=settings), folder / "protector")
        return
    studies = []
    for index, label in enumerate("ab"):
        paths = write_ct_series(folder / label, slices=4, rows=64, columns=64, seed=index)
        volume = read_series(paths).volume
        studies.append(Study(label=label, load=lambda volume=volume: volume))
    save(fit(studies, settings, folder), folder / "protector")


def work(folder: Path, name: str) -> None:
    """Protect one series as a worker does."""
    from salm_dicom.batch.engines import keep_memory
    from salm_dicom.batch.job import Job, protect_series
    from salm_dicom.batch.vault import Vault

    keep_memory()
    vault = Vault(folder / f"{name}.vault")
    vault.create()
    outcome = protect_series(
        Job(
            source=name, name="out", paths=tuple(sorted((folder / name).iterdir())), label="a",
            protector=folder / "protector", output=folder / f"{name}.out", vault=vault.folder,
            created=datetime.now(UTC), site_key=b"k" * 16,
        )
    )  # fmt: skip
    if outcome.code:
        raise SystemExit(f"{outcome.code}: {outcome.reason}")


def measured(
    method: str, extent: str, surrogates: str, sizes: tuple[tuple[int, int], ...]
) -> list[Row]:
    """Return the peaks of series of some sizes."""
    from salm_dicom.batch.bounds import memory_of
    from tests.synthetic import write_ct_series

    rows = []
    with tempfile.TemporaryDirectory(prefix="salm-memory-") as scratch:
        folder = Path(scratch)
        # in processes of their own: a child's peak counts from the size of its parent
        run([sys.executable, __file__, "--prepare", folder, method, extent, surrogates])
        for slices, side in sizes:
            name = f"{slices}x{side}"
            write_ct_series(folder / name, slices=slices, rows=side, columns=side)
            (folder / f"{name}.out").mkdir()
            found = run([sys.executable, __file__, "--work", folder, name])
            settings = plan(method, extent, surrogates)
            counted = memory_of(slices * side * side, slices, settings) / 2**20
            rows.append(
                Row(method=method, extent=extent, surrogates=surrogates, slices=slices, side=side,
                    peak_mb=found.peak_mb, counted_mb=counted)
            )  # fmt: skip
    return rows


def main() -> None:
    """Measure, print a table and write the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/memory.json")
    parser.add_argument("--only", help="Surrogates, as in `one`.")
    parser.add_argument("--prepare", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare(Path(options.prepare[0]), *options.prepare[1:])
        return
    if options.work:
        work(Path(options.work[0]), options.work[1])
        return
    compile_bytecode()
    asked = {one: sizes for one, sizes in SIZES.items() if options.only in (None, one[2])}
    rows = [row for one, sizes in asked.items() for row in measured(*one, sizes)]
    print(
        "| method, extent, surrogates | slices | peak, MB | counted, MB | |\n|---|---|---|---|---|"
    )
    for row in rows:
        word = "enough" if row.counted_mb >= row.peak_mb else "**too little**"
        print(
            f"| `{row.method}`, {row.extent}, {row.surrogates} | {row.slices} x {row.side} | "
            f"{row.peak_mb:.0f} | {row.counted_mb:.0f} | {word} |"
        )
    write_results(options.json, LIBRARIES, rows=[asdict(row) for row in rows])


if __name__ == "__main__":
    main()
