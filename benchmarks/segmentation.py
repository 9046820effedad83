"""Does it protect masks? Victims that learn to find lung tumours (48 x 48 pixels of 2 mm).

Run: .venv/bin/python benchmarks/segmentation.py [--full]        (needs h5py)
SALM_SHARED names the folder whose data/msd_lung_patches/val_patches.h5 is read (else ../shared).
The small size takes some 20 minutes on one core; fresh surrogates, each of whose fits takes a
quarter of an hour, are in the full one, or --only. Every row is written as soon as it is there.
--tables FILE... prints the tables of finished runs together, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measured import shared_file, write_results  # noqa: E402
from benchmarks.method import LIBRARIES, RULES, compared  # noqa: E402
from salm_dicom.audit import (  # noqa: E402
    SEGMENTERS,
    Images,
    Trial,
    chance_of_masks,
    protection_if_any,
    trial,
    verdict,
)
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from salm_dicom.protector import Mask, Protector  # noqa: E402
from salm_dicom.protector.device import device_of  # noqa: E402
from salm_dicom.protector.fit import Study, fit  # noqa: E402
from salm_dicom.volume import StoredPixels, Volume  # noqa: E402

# Stored values are what the patches have of 0 to 1, in steps of 12 bits.
MOST = 4095
PLAN = ProtectionPlan(
    method="salm", objective="segmentation", epsilon="8/255", intensity_range=(0.0, float(MOST)),
    slice_size=(48, 48), batch_size=16, momentum=0.5,
)  # fmt: skip
FRESH = replace(PLAN, surrogates="fresh", momentum=0.9)
CONTENDERS: dict[str, ProtectionPlan] = {
    "salm, gradient": PLAN,
    "salm, roi_band": replace(PLAN, mask="roi_band"),
    "salm, gradient & roi": replace(PLAN, mask="gradient & roi"),
    "dense": replace(PLAN, method="dense"),
    "salm, fresh": FRESH,
    "salm, roi_band, fresh": replace(FRESH, mask="roi_band"),
    "dense, fresh": replace(FRESH, method="dense"),
    "random": replace(PLAN, method="random"),
}
PATIENTS, PATCHES = 13, 10
ON_TEST, ON_VALIDATION = 3, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured; each fit seed splits the patients in its own way."""

    fit_seeds: tuple[int, ...] = (0, 1)
    victim_seeds: tuple[int, ...] = (100,)
    epochs: int = 45


FULL = Size(fit_seeds=(0, 1, 2, 3), victim_seeds=(100, 101, 102), epochs=120)


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return stored values and masks, (patients, patches, rows, columns)."""
    try:
        import h5py
    except ImportError as error:
        raise SystemExit("this benchmark reads HDF5: pip install h5py") from error
    path = shared_file("msd_lung_patches/val_patches.h5")
    with h5py.File(path) as file:
        images, masks = file["images"][:, 0], file["labels"][:, 0]
    # ten patches of one patient after the other
    shape = (PATIENTS, PATCHES, *images.shape[1:])
    stored = np.rint(np.clip(images, 0, 1) * MOST).astype(np.uint16)
    return stored.reshape(shape), (masks > 0.5).astype(np.uint8).reshape(shape)


def volume(stored: np.ndarray) -> Volume:
    """Return a patient's patches as a series of single images, all that is not clipped anatomy."""
    count = len(stored)
    pixels = StoredPixels(
        values=stored, slope=np.ones(count), intercept=np.zeros(count), bits_stored=12, signed=False
    )
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    return Volume(pixels=pixels, affine=affine, modality="DX", irregular="single patches")


def mask(values: np.ndarray) -> Mask:
    """Return a patient's masks."""
    return Mask(names=("tumour",), values=values)


def images(stored: np.ndarray, masks: np.ndarray) -> Images:
    """Return what victims see."""
    size = stored.shape[-2:]
    return Images(
        pixels=torch.from_numpy(stored.reshape(-1, 1, *size).astype(np.float32) / MOST),
        labels=torch.from_numpy(masks.reshape(-1, 1, *size).astype(np.int64)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Patients after protection, PSNR in dB and share of pixels changed, passes and seconds."""

    stored: np.ndarray
    psnr: float
    changed: float
    passes: float
    seconds: float


def shared(
    plan: ProtectionPlan,
    stored: np.ndarray,
    masks: np.ndarray,
    learn: Sequence[int],
    work: Path,
    device: str,
) -> Shared:
    """Return all patients as they are shared by a protector that was fitted on some of them."""
    began = time.perf_counter()
    studies = [
        Study(load=lambda p=p: volume(stored[p]), mask=lambda p=p: mask(masks[p])) for p in learn
    ]
    if plan.needs_surrogate:
        protector = replace(fit(studies, plan, work, device=device), device=device)
    else:
        protector = Protector(plan=plan)
    delta = np.stack(
        [
            protector.apply(volume(stored[p]), series_uid=f"{p}", label=mask(masks[p])).delta
            for p in range(len(stored))
        ]
    ).astype(np.float64)
    return Shared(
        stored=(stored + delta).astype(np.uint16),
        psnr=10 * math.log10(MOST**2 / float((delta[learn] ** 2).mean())),
        changed=float((delta[learn] != 0).mean()),
        passes=protector.report.get("slice_passes_per_image", 0.0),
        seconds=time.perf_counter() - began,
    )


class Bench:
    """The run: for each split the reference on clean data, then one contender after the other."""

    def __init__(self, size: Size, only: Sequence[str], out: Path, device: str) -> None:
        self.stored, self.masks = load()
        self.size, self.only, self.out, self.device = size, only, out, device
        self.results: dict[str, object] = {
            "device": device, "size": asdict(size), "clean": [], "rows": [],
        }  # fmt: skip

    def split(self, seed: int) -> None:
        """Measure every contender on one split of the patients."""
        order = np.random.default_rng(seed).permutation(PATIENTS).tolist()
        test, held_out = order[:ON_TEST], order[ON_TEST : ON_TEST + ON_VALIDATION]
        learn = sorted(order[ON_TEST + ON_VALIDATION :])
        self.sides = learn, held_out, test
        chance = chance_of_masks(images(self.stored[test], self.masks[test]).labels)
        clean: dict[tuple[str, int], Trial] = {}
        for victim, victim_seed in product(SEGMENTERS, self.size.victim_seeds):
            found = self.attack(self.stored, victim, victim_seed)
            clean[victim, victim_seed] = found
            row = {"split": seed, "victim": victim, "victim_seed": victim_seed, "chance": chance}
            self.add("clean", row | {"trial": asdict(found)})
        for name in self.only:
            plan = replace(CONTENDERS[name], seed=seed)
            work = self.out.parent
            made = shared(plan, self.stored, self.masks, learn, work, self.device)
            for (victim, victim_seed), reference in clean.items():
                found = self.attack(made.stored, victim, victim_seed)
                row = {
                    "method": name, "fit_seed": seed, "victim": victim, "victim_seed": victim_seed,
                    "psnr": made.psnr, "changed": made.changed, "passes": made.passes,
                    "seconds": made.seconds, "trial": asdict(found),
                    "np": protections(reference, found, chance),
                }  # fmt: skip
                self.add("rows", row)

    def attack(self, stored: np.ndarray, victim: str, seed: int) -> Trial:
        """Train a victim on what is shared, validate it on the same, test it on clean patients."""
        learn, held_out, test = self.sides
        return trial(
            victim,
            images(stored[learn], self.masks[learn]),
            validation=images(stored[held_out], self.masks[held_out]),
            clean_validation=images(self.stored[held_out], self.masks[held_out]),
            test=images(self.stored[test], self.masks[test]),
            seed=seed,
            epochs=self.size.epochs,
            device=self.device,
        )

    def add(self, table: str, row: dict[str, object]) -> None:
        """Print a row, keep it, and write all there are."""
        print(table, json.dumps(row), file=sys.stderr, flush=True)
        self.results[table].append(row)
        write_results(self.out, LIBRARIES, **self.results)


def protections(clean: Trial, found: Trial, chance: float) -> dict[str, float | None]:
    """Return the normalised protection at each epoch that a victim may stop at."""
    pairs = {rule: (getattr(clean, rule), getattr(found, rule)) for rule in RULES}
    return {rule: protection_if_any(*pair, chance) for rule, pair in pairs.items()}


def spread(found: list[float | None]) -> str:
    """Return mean and standard deviation of what is known, and how much is not."""
    values = [value for value in found if value is not None]
    if len(values) < len(found):
        return f"{spread(values)} ({len(found) - len(values)} unknown)" if values else "unknown"
    return f"{fmean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def table(results: dict) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    clean = results["clean"]
    yield (
        f"Clean victims: Dice {spread([r['trial']['selected'] for r in clean])}, best constant "
        f"answer {spread([r['chance'] for r in clean])}."
    )
    yield ""
    yield "| method | Dice selected | NP selected | NP clean-selected | NP last | PSNR dB | changed | passes | fit and apply s | verdict |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(r["method"] for r in results["rows"]):
        rows = [r for r in results["rows"] if r["method"] == name]
        rules = [[r["np"][k] for r in rows] for k in ("selected", "clean_selected", "last")]
        known = [value for value in rules[0] if value is not None]
        words = verdict(fmean(known)).split(":")[0] if known else "unknown"
        numbers = [fmean(r[k] for r in rows) for k in ("psnr", "changed", "passes", "seconds")]
        yield (
            f"| {name} | {spread([r['trial']['selected'] for r in rows])} | "
            f"{' | '.join(map(spread, rules))} | {numbers[0]:.1f} | {numbers[1]:.2f} | "
            f"{numbers[2]:.0f} | {numbers[3]:.0f} | {words} |"
        )
    ours = [name for name in CONTENDERS if name.startswith("salm")]
    yield from compared(results["rows"], product(ours, ("dense", "random")))


def main() -> None:
    """Run what was asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, nargs="+", metavar="FILE", help="of these runs")
    parser.add_argument("--full", action="store_true", help="4 splits x 3 victim seeds, hours")
    parser.add_argument("--fit-seeds", type=int, nargs="*", help="instead of those of the size")
    parser.add_argument("--epochs", type=int, help="instead of those of the size")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="instead of the size's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    default = ROOT / "benchmarks" / "results" / "segmentation.json"
    parser.add_argument("-o", type=Path, default=default)
    asked = parser.parse_args()
    if asked.tables:
        runs = [json.loads(one.read_text()) for one in asked.tables]
        pooled = {part: [r for run in runs for r in run[part]] for part in ("clean", "rows")}
        print("\n".join(table(pooled)))
        return
    torch.set_num_threads(1)
    size = FULL if asked.full else Size()
    size = replace(
        size,
        fit_seeds=tuple(asked.fit_seeds or size.fit_seeds),
        epochs=asked.epochs or size.epochs,
    )
    usual = [name for name, plan in CONTENDERS.items() if asked.full or not plan.is_fresh]
    bench = Bench(size, asked.only or usual, asked.o, device_of(asked.device))
    for seed in size.fit_seeds:
        bench.split(seed)
    print("\n".join(table(bench.results)))


if __name__ == "__main__":
    main()
