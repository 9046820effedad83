"""Speed of reading a series, by transfer syntax: salm_dicom against raw pydicom, in one run.

Run: .venv/bin/python benchmarks/reading.py [--slices 40] [--repeats 5]
Both read the same files in turns; `read_series` also hashes, orders, checks and stacks them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pydicom
from pydicom.pixels import pixel_array

ROOT = Path(__file__).resolve().parents[1]
SIDE = 512
LIBRARIES = ("pydicom", "numpy", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle")

sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import arguments, write_results  # noqa: E402
from salm_dicom.dicom.sandbox import sandboxed  # noqa: E402
from salm_dicom.dicom.series import read_series  # noqa: E402
from tests.synthetic import SYNTAXES, write_ct_series  # noqa: E402

Read = Callable[[Sequence[Path]], np.ndarray]


def by_pydicom(paths: Sequence[Path]) -> np.ndarray:
    """Return the stored values of each file as they come, stacked."""
    return np.stack([pixel_array(pydicom.dcmread(path), raw=True) for path in paths])


def by_salm_dicom(paths: Sequence[Path]) -> np.ndarray:
    """Return the stored values of the volume."""
    return read_series(paths).volume.pixels.values


def by_salm_dicom_sandboxed(paths: Sequence[Path]) -> np.ndarray:
    """Return the same, decoded in a process that is started for it."""
    with sandboxed():
        return by_salm_dicom(paths)


READERS: dict[str, Read] = {
    "pydicom": by_pydicom,
    "salm_dicom": by_salm_dicom,
    "salm_dicom --sandbox": by_salm_dicom_sandboxed,
}


def measured(paths: Sequence[Path], repeats: int) -> dict[str, float]:
    """Return the median milliseconds of a slice for each reader; all must read the same."""
    values = [read(paths) for read in READERS.values()]  # and warm up
    if not all(np.array_equal(one, values[0]) for one in values):
        raise SystemExit("the readers do not agree")
    times: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in range(repeats):
        for name, read in READERS.items():
            start = time.perf_counter()
            read(paths)
            times[name].append((time.perf_counter() - start) * 1000 / len(paths))
    return {name: median(found) for name, found in times.items()}


def main() -> None:
    """Measure, print a table and write the numbers as JSON."""
    parser = arguments(__doc__, "reading", repeats=5)
    parser.add_argument("--slices", type=int, default=40)
    options = parser.parse_args()
    rows = {}
    for syntax in SYNTAXES:
        with tempfile.TemporaryDirectory() as folder:
            paths = write_ct_series(
                Path(folder), slices=options.slices, rows=SIDE, columns=SIDE,
                transfer_syntax=syntax,
            )  # fmt: skip
            rows[syntax.name] = measured(paths, options.repeats)
    print(f"{'milliseconds a slice':<45}" + "".join(f"{name:>22}" for name in READERS) + "  ratio")
    for name, row in rows.items():
        ratio = row["pydicom"] / row["salm_dicom"]
        print(f"{name:<45}" + "".join(f"{row[one]:>22.2f}" for one in READERS) + f"{ratio:>6.2f}x")
    write_results(
        options.json, LIBRARIES,
        slices=options.slices, side=SIDE, repeats=options.repeats, milliseconds_a_slice=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
