"""Which settings of `salm` matter? One at a time, on clean PneumoniaMNIST validation images.

Run: .venv/bin/python benchmarks/ablation.py [--of-fresh] [--only NAME ...] [--seeds N ...]
    [--epochs N] [--part K --of N]
Every row is the plan of `method.py` (8/255, rho 0.2, 8 rounds) with one setting changed, fitted
and applied as the package does it; `--of-fresh`: that with fresh surrogates and a spared
label, two fits each, written to `fresh_settings.json`; there by --epochs 12. Three victims that
are no surrogate's architecture train; the test set is not looked at. A row takes one to four
minutes on one core; rows that the results have are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import method  # noqa: E402
from benchmarks.measured import write_results  # noqa: E402
from benchmarks.pneumonia import Data, load  # noqa: E402
from salm_dicom.audit import Images, normalised_protection, trial  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy")
VICTIMS = ("resnet-10", "densenet-small", "convnet")
EPOCHS = 5
PLAN = method.PLAN
# What is changed, and to what; the defaults of the plan first.
SETTINGS: dict[str, Sequence[Any]] = {
    "rho": (0.05, 0.1, 0.4, 1.0),
    "epsilon": ("4/255", "16/255"),
    "steps": (5, 20),
    "step_size": (0.1, 0.4),
    "rounds": (2, 4, 16),
    "schedule": ("step", "once"),
    "momentum": (0.0, 0.9),
    "block": (2, 4),
    "zero_mean": (False,),
    "batches": (5, 40),
}
# The same of fresh surrogates, whose fits differ: each is measured with two of their seeds.
FRESH = method.FRESH
SETTINGS_OF_FRESH: dict[str, Sequence[Any]] = {
    "spare_one": (False,),
    "rho": (0.1, 0.4),
    "epsilon": ("4/255", "16/255"),
    "steps": (5,),
    "rounds": (3,),
    "momentum": (0.0, 0.5),
    "zero_mean": (False,),
}


def changed(plan: ProtectionPlan, settings: dict[str, Sequence[Any]]) -> dict[str, ProtectionPlan]:
    """Return a plan as it is, and with one setting changed at a time."""
    return {"as it is": plan} | {
        f"{name} {value}": replace(plan, **{name: value})
        for name, values in settings.items()
        for value in values
    }


ROWS = changed(PLAN, SETTINGS) | {
    f"fresh, fit {seed}, {name}": plan
    for seed in (0, 1)
    for name, plan in changed(replace(FRESH, seed=seed), SETTINGS_OF_FRESH).items()
}


def scores(
    data: Data, shown: tuple[Images, Images], seeds: Sequence[int], epochs: int
) -> list[float]:
    """Return balanced accuracy on clean validation images for each victim and seed."""
    return [
        trial(
            victim, shown[0], validation=method.held_out(shown[1]),
            clean_validation=data.validation, test=data.validation, seed=seed, epochs=epochs,
        ).last
        for victim in VICTIMS for seed in seeds
    ]  # fmt: skip


def measured(
    name: str, data: Data, clean: Sequence[float], seeds: Sequence[int], epochs: int
) -> dict[str, Any]:
    """Return what one setting gives."""
    began = time.process_time()
    with TemporaryDirectory() as folder:
        protector = method.fitted(ROWS[name], data.early, Path(folder))
    early, fidelity = method.protected(protector, data.early)
    late, _ = method.protected(protector, data.late)
    seconds = time.process_time() - began
    found = scores(data, (early, late), seeds, epochs)
    pairs = zip(clean, found, strict=True)
    return {
        "row": name,
        "seeds": list(seeds),
        "np": [normalised_protection(a, b, method.CHANCE) for a, b in pairs],
        "report": dict(protector.report),
        "seconds": seconds,
    } | fidelity


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| setting | NP | resnet-10 | densenet-small | convnet | PSNR dB | SSIM | changed | surrogate's error, protected and source | passes | s |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda one: list(ROWS).index(one["row"])):
        each = len(row["seeds"])
        of_victim = [row["np"][first : first + each] for first in range(0, len(row["np"]), each)]
        errors = (row["report"][f"slice_error_on_{one}"] for one in ("protected", "source"))
        yield (
            f"| {row['row']} | {fmean(row['np']):.2f} ± {stdev(row['np']):.2f} | "
            f"{' | '.join(' '.join(f'{one:.2f}' for one in some) for some in of_victim)} | "
            f"{row['psnr']:.1f} | {row['ssim']:.3f} | {row['changed']:.2f} | "
            f"{', '.join(f'{one:.3f}' for one in errors)} | "
            f"{row['report']['slice_passes_per_image']:.0f} | {row['seconds']:.0f} |"
        )


def main() -> None:
    """Measure what was asked for and is not there, and print all there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--of-fresh", action="store_true")
    parser.add_argument("--only", nargs="+", choices=ROWS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--part", type=int, default=0, help="every --of-th row from this one on")
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--tables", type=Path, nargs="+", help="print finished parts together")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    asked.only = asked.only or [n for n in ROWS if n.startswith("fresh") == asked.of_fresh]
    if asked.json is None:
        name = "fresh_settings.json" if asked.of_fresh else "ablation.json"
        asked.json = ROOT / "benchmarks" / "results" / name
    if asked.tables:
        rows = [row for one in asked.tables for row in json.loads(one.read_text())["rows"]]
        write_results(asked.json, LIBRARIES, rows=rows)
        print("\n".join(table(rows)))
        return
    torch.set_num_threads(1)
    data = load()
    rows = json.loads(asked.json.read_text())["rows"] if asked.json.exists() else []
    clean = scores(data, (data.early, data.late), asked.seeds, asked.epochs)
    for name in asked.only[asked.part :: asked.of]:
        if any(row["row"] == name for row in rows):
            continue
        rows.append(measured(name, data, clean, asked.seeds, asked.epochs))
        print("\n".join(table(rows[-1:])), file=sys.stderr, flush=True)
        write_results(asked.json, LIBRARIES, rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
