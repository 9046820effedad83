"""What `apply` costs beyond the passes of its surrogate; memory and processes of a fit.

Run: .venv/bin/python benchmarks/gradient.py [--slices 16] [--repeats 5] [--apply-only]

The floor is K forward and backward passes of the surrogate on the same stored values in the same
batches: gradients for all voxels. A stricter one is that of its network alone, from values on its
own grid. `apply` itself asks once for the gradient of all voxels, then for that of those which it
changes; what that costs is a row, and what remains of `protect_series`, the job with reading and
writing, is outside the gradient. One thread, processor time, in turns: medians of the turns, and
of their ratios.

Fits by one and by two processes take turns, by the clock on the wall: nothing else may run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for benchmarks.measured, tests.synthetic

from benchmarks.measured import arguments, run, write_results  # noqa: E402
from salm_dicom.batch.engines import keep_memory, warm_up  # noqa: E402
from salm_dicom.batch.job import Job, protect_series  # noqa: E402
from salm_dicom.batch.pool import pool  # noqa: E402
from salm_dicom.batch.vault import Vault  # noqa: E402
from salm_dicom.dicom.series import read_series  # noqa: E402
from salm_dicom.foreground import outline  # noqa: E402
from salm_dicom.intensity import intensity_range, region_edge  # noqa: E402
from salm_dicom.learning import InputLoss, network_input, reproducible  # noqa: E402
from salm_dicom.perturb.loss import gradient  # noqa: E402
from salm_dicom.perturb.pairs import top_pairs  # noqa: E402
from salm_dicom.perturb.top_k import places  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from salm_dicom.protector import Protector, save  # noqa: E402
from salm_dicom.protector.fit import Study, fit  # noqa: E402
from salm_dicom.protector.samples import slices_at_once  # noqa: E402
from tests.synthetic import write_ct_series  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy")
SIDE = 512
PLAN = ProtectionPlan(method="salm", extent="slice")
TARGETS = {"apply_to_passes": 1.10, "selection_to_passes": 0.05, "outside_the_gradient": 0.10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Slices that go through the surrogate together, and what is found of them.

    Parameters
    ----------
    slope
        Gradient at the stored values.
    at
        Flat places of the voxels that are taken.
    seen
        The network's input.
    """

    loss: InputLoss
    x: Tensor
    mask: Tensor
    slope: Tensor
    at: Tensor
    seen: Tensor


def fitted(folder: Path, series: int, plan: ProtectionPlan, jobs: int = 1) -> Protector:
    """Return a protector fitted on so many series of 8 slices of 64 x 64; print the seconds."""
    studies = []
    for index in range(series):
        place = folder / f"{index}"
        paths = write_ct_series(place, slices=8, rows=64, columns=64, seed=index)
        studies.append(
            Study(label="ab"[index % 2], load=lambda paths=paths: read_series(paths).volume)
        )
    start = time.perf_counter()
    with pool("local", jobs) as workers:
        found = fit(studies, plan, folder, each=workers.each)
    print(time.perf_counter() - start)
    return found


def milliseconds(
    works: dict[str, Callable[[], Any]], repeats: int, slices: int
) -> list[dict[str, float]]:
    """Return the processor time of a slice of each work in every turn, after one that warms up."""
    turns = []
    for repeat in range(repeats + 1):
        turn = {}
        for name in [*works][:: -1 if repeat % 2 else 1]:  # there and back: speed drifts
            start = time.process_time()
            works[name]()
            turn[name] = (time.process_time() - start) * 1000 / slices
        turns.append(turn)
    return turns[1:]


def measure(slices: int, repeats: int, folder: Path) -> list[dict[str, float]]:
    """Return milliseconds a slice of each part, in every turn."""
    protector = fitted(folder / "fit", 4, PLAN)
    paths = tuple(write_ct_series(folder / "series", slices=slices, rows=SIDE, columns=SIDE))
    volume = read_series(paths).volume
    pixels, surrogate = volume.pixels, protector.surrogates["slice"]
    anatomy = outline(pixels, volume.modality, volume.photometric)
    window = intensity_range(PLAN, volume, anatomy.at)
    together = slices_at_once(pixels.values.shape, surrogate.spec.values)
    parts = []
    for first in range(0, slices, together):
        which = slice(first, first + together)
        x = torch.from_numpy(pixels.values[which].astype(np.float32))[:, None]
        a, b = (
            n[which].astype(np.float32)[:, None, None, None]
            for n in (pixels.slope, pixels.intercept)
        )
        mask = torch.from_numpy(np.stack([anatomy.at(first + i) for i in range(len(x))]))[:, None]
        loss = surrogate.loss(a, b, window, np.zeros(len(x), np.int64))
        slope = gradient(loss, x)
        at = places(top_pairs(-slope, mask, PLAN.rho, region_edge(PLAN, volume)))
        seen = network_input(x, *map(torch.from_numpy, (a, b)), window, surrogate.spec.size)
        parts.append(Part(loss=loss, x=x, mask=mask, slope=slope, at=at, seen=seen))

    def passes() -> None:
        for part in parts:
            for _ in range(PLAN.steps):
                gradient(part.loss, part.x)

    def network() -> None:
        for part in parts:
            for _ in range(PLAN.steps):
                gradient(part.loss.measure, part.seen)

    def gradients() -> None:
        for part in parts:
            gradient(part.loss, part.x)
            if (among := part.loss.among(part.x, part.at)) is None:
                raise SystemExit("the surrogate's areas overlap: nothing is saved")
            values = part.x.reshape(-1)[part.at]
            for _ in range(PLAN.steps - 1):
                gradient(among, values)

    def selection() -> None:
        for part in parts:
            top_pairs(-part.slope, part.mask, PLAN.rho, region_edge(PLAN, volume))

    save(protector, folder / "protector")
    numbers = iter(range(10**6))

    def job() -> None:
        name = f"{next(numbers)}"
        vault = Vault(folder / f"{name}.vault")
        vault.create()
        (folder / "out").mkdir(exist_ok=True)
        found = protect_series(
            Job(
                source=name, name=name, paths=paths, label="a", protector=folder / "protector",
                output=folder / "out", vault=vault.folder, created=datetime.now(UTC),
                site_key=b"k" * 16,
            )
        )  # fmt: skip
        if found.code:
            raise SystemExit(f"{found.code}: {found.reason}")

    works = {
        "network": network,
        "passes": passes,
        "gradients": gradients,
        "selection": selection,
        "apply": lambda: protector.apply(volume, series_uid="1", label="a"),
        "job": job,
    }
    with reproducible():
        return milliseconds(works, repeats, slices)


def ratios(turn: dict[str, float]) -> dict[str, float]:
    """Return what has a target."""
    return {
        "apply_to_passes": turn["apply"] / turn["passes"],
        "apply_to_network": turn["apply"] / turn["network"],
        "selection_to_passes": turn["selection"] / turn["passes"],
        "outside_the_gradient": 1 - turn["gradients"] / turn["job"],
    }


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each number."""
    return {name: median(turn[name] for turn in turns) for name in turns[0]}


def fit_seconds(series: int, repeats: int) -> dict[str, float]:
    """Return the median time of a fit by one and by two processes; the first pair warms up."""
    command = [sys.executable, __file__, "--fit", str(series), "--jobs"]
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats + 1):
        for jobs, seconds in times.items():
            seconds.append(run([*command, str(jobs)], timed=True).work_seconds or 0.0)
    return {str(jobs): median(seconds[1:]) for jobs, seconds in times.items()}


def fits(series: list[int], repeats: int) -> dict[str, dict[str, float]]:
    """Return peak memory by number of series, and seconds of the longest by processes."""
    return {
        "fit_peak_mb": {
            str(count): run([sys.executable, __file__, "--fit", str(count)]).peak_mb
            for count in series
        },
        "fit_seconds_by_processes": fit_seconds(max(series), max(repeats // 2, 1)),
    }


def table(
    found: dict[str, float],
    said: dict[str, float],
    memory: dict[str, float],
    processes: dict[str, float],
) -> str:
    """Return what is printed, in Markdown."""
    lines = ["| | ms a slice | ratio | target, at most |", "|---|---|---|---|"]
    for name, title, ratio in (
        ("network", f"{PLAN.steps} forward and backward passes of its network alone", ""),
        ("passes", f"{PLAN.steps} of the surrogate, gradients for all voxels", ""),
        ("gradients", "the same as `apply` asks for them", ""),
        ("selection", "selection of the voxels", "selection_to_passes"),
        ("apply", "`Protector.apply`", "apply_to_passes"),
        ("apply", "`Protector.apply` to the network alone", "apply_to_network"),
        ("job", "the whole job; share outside the gradient", "outside_the_gradient"),
    ):
        target = f"{TARGETS[ratio]:.2f}" if ratio in TARGETS else ""
        ratio_text = f"{said[ratio]:.2f} | {target}" if ratio else "|"
        lines.append(f"| {title} | {found[name]:.1f} | {ratio_text} |")
    least = min(memory, key=int, default="")
    lines += ["", "| series fitted on | peak MB | |", "|---|---|---|"]
    lines += [
        f"| {series} | {peak:.0f} | {peak / memory[least]:.2f}x |"
        for series, peak in memory.items()
    ]
    if not processes:
        return "\n".join(lines)
    lines += ["", "| processes of a fit | s | |", "|---|---|---|"]
    lines += [
        f"| {jobs} | {seconds:.1f} | {processes['1'] / seconds:.2f}x as fast |"
        for jobs, seconds in processes.items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the tables and write the numbers as JSON."""
    parser = arguments(__doc__, "gradient", repeats=5)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--series", type=int, nargs="+", default=[4, 16, 64], help="of a fit")
    parser.add_argument("--apply-only", action="store_true", help="fits stay as the JSON has them")
    parser.add_argument("--fit", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--jobs", type=int, default=1, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="salm-gradient-") as scratch:
        folder = Path(scratch)
        (folder / "fit").mkdir()
        if options.fit:
            if options.jobs > 1:
                warm_up(with_torch=True)
            fitted(folder / "fit", options.fit, ProtectionPlan(rounds=2, batches=4), options.jobs)
            return
        if options.apply_only:
            known = json.loads(options.json.read_text()) if options.json.exists() else {}
        else:  # first: a process begins with the memory of the one that starts it
            known = fits(options.series, options.repeats)
        keep_memory()
        turns = measure(options.slices, options.repeats, folder)
    found, said = medians(turns), medians([ratios(turn) for turn in turns])
    of_fits = {name: known.get(name, {}) for name in ("fit_peak_mb", "fit_seconds_by_processes")}
    print(table(found, said, *of_fits.values()))
    write_results(
        options.json, LIBRARIES,
        slices=options.slices, repeats=options.repeats, milliseconds_a_slice=found, ratios=said,
        turns=turns, **of_fits,
    )  # fmt: skip


if __name__ == "__main__":
    main()
