"""Does it protect? Every method against victims that learn from PneumoniaMNIST (28 x 28 pixels).

Run: .venv/bin/python benchmarks/method.py [--full]
SALM_SHARED names the folder whose data/pneumoniamnist/pneumoniamnist.npz is read (else ../shared).
The small size took 35 minutes on one core (results/method_small.json); rows are written as they
come, and --only names other contenders. Victims learn on --device.
--tables FILE... prints the tables of finished runs together, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import torch
from monai.metrics.regression import compute_ssim_and_cs
from scipy.stats import ttest_rel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import backbones  # noqa: E402
from benchmarks.agreement import agreement  # noqa: E402
from benchmarks.measured import write_results  # noqa: E402
from benchmarks.pneumonia import A_CLASS, A_SERIES, CLASSES, Data, load, volumes  # noqa: E402
from salm_dicom.audit import (  # noqa: E402
    COUNTERMEASURES,
    VICTIMS,
    Images,
    Trial,
    normalised_protection,
    trial,
    verdict,
)
from salm_dicom.audit.countermeasures import WITH_WEIGHTS  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from salm_dicom.protector import Protector  # noqa: E402
from salm_dicom.protector.clusters import Clusters  # noqa: E402
from salm_dicom.protector.device import device_of  # noqa: E402
from salm_dicom.protector.fit import Study, fit  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy")
PLAN = ProtectionPlan(
    method="salm", epsilon="8/255", intensity_range=(0.0, 255.0), slice_size=(28, 28), batches=20,
    batch_size=32, momentum=0.5,
)  # fmt: skip
FRESH = replace(PLAN, surrogates="fresh", spare_one=True, momentum=0.9)
CONTENDERS: dict[str, ProtectionPlan] = {
    "one_sided": replace(PLAN, method="one_sided"),
    "hybrid": replace(PLAN, method="hybrid", steps=30, step_size=0.1, momentum=0.9),
    "one_sided, coarse": replace(PLAN, method="one_sided", grain="coarse"),
    "one_sided, coarse, rho 0.3": replace(PLAN, method="one_sided", grain="coarse", rho=0.3),
    "one_sided, 2 x 2 cells": replace(PLAN, method="one_sided", block=2),
    "salm": PLAN,
    "salm, fresh": replace(FRESH, spare_one=False),
    "salm, fresh, spared": FRESH,
    "dense, fresh, spared": replace(FRESH, method="dense"),
    "random_mask, fresh, spared": replace(FRESH, method="random_mask"),
    "low_gradient, fresh, spared": replace(FRESH, method="low_gradient"),
    "salm, fresh, spared, 4/255": replace(FRESH, epsilon="4/255"),
    "salm, fresh, spared, EOT": replace(FRESH, eot=("blur", "half"), block=2),
    "salm, spared": replace(PLAN, spare_one=True),
    "salm, swap": replace(PLAN, swap=1.0, momentum=0.9, batches=30),
    "texture": replace(PLAN, method="texture"),
    "dense": replace(PLAN, method="dense"),
    "stable": replace(PLAN, method="stable"),
    "random_mask": replace(PLAN, method="random_mask"),
    "low_gradient": replace(PLAN, method="low_gradient"),
    "targeted, dense": replace(PLAN, method="targeted", rho=1.0, steps=20),
    "targeted, rho 0.2": replace(PLAN, method="targeted", steps=20),
    "patches": replace(PLAN, method="patches"),
    "autoregressive": replace(PLAN, method="autoregressive"),
    "random": replace(PLAN, method="random"),
    "uniform": replace(PLAN, method="uniform"),
    "salm, EOT": replace(PLAN, eot=("shift", "flip", "blur", "half"), momentum=0.9),
    "salm, sums free": replace(PLAN, zero_mean=False),
    "salm, 2 x 2 blocks": replace(PLAN, block=2),
    "salm, step": replace(PLAN, schedule="step"),
    "salm, once": replace(PLAN, schedule="once"),
    "salm, label-free": replace(PLAN, label_free=True),
}
# Fitted with every seed even in the small size: they are compared in pairs.
PAIRED = (
    "one_sided",
    "one_sided, coarse",
    "one_sided, coarse, rho 0.3",
    "hybrid",
    "texture",
    "salm",
    "salm, fresh",
    "salm, fresh, spared",
    "salm, fresh, spared, 4/255",
    "salm, fresh, spared, EOT",
    "dense, fresh, spared",
    "random_mask, fresh, spared",
    "low_gradient, fresh, spared",
    "salm, swap",
    "dense",
    "random_mask",
    "low_gradient",
)
# Compared in pairs: what is shown to be better, or no worse, and than what.
COMPARED = (
    ("salm, fresh, spared", "dense, fresh, spared"),
    ("salm, fresh, spared", "random_mask, fresh, spared"),
    ("salm, fresh, spared", "low_gradient, fresh, spared"),
    ("salm, fresh, spared", "salm, fresh, spared, 4/255"),
    ("salm", "dense"),
    ("salm", "random_mask"),
    ("salm", "low_gradient"),
)
# Attacked with every countermeasure.
ROBUST = (
    "one_sided",
    "one_sided, coarse",
    "one_sided, coarse, rho 0.3",
    "hybrid",
    "one_sided, 2 x 2 cells",
    "texture",
    "salm",
    "salm, fresh, spared",
    "salm, fresh, spared, EOT",
    "dense",
    "salm, EOT",
    "salm, swap",
)
# Applied to images that came after the fit, too.
LATE = ("salm", "salm, fresh, spared", "hybrid")
CHANCE = 1 / len(CLASSES)
RULES = ("selected", "clean_selected", "last", "best")
TO_VALIDATE = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    fit_seeds: tuple[int, ...]
    victim_seeds: tuple[int, ...]
    victims: tuple[str, ...]
    countermeasures: tuple[str, ...]
    contenders: tuple[str, ...]
    late: bool = True
    robust_victims: tuple[str, ...] = ("resnet-10", "densenet-small", "convnet")
    in_step: bool = False

    def victim_seeds_of(self, fit_seed: int) -> tuple[int, ...]:
        """Return the victim seeds for a fit: all, or the one in its place."""
        if not self.in_step:
            return self.victim_seeds
        return (self.victim_seeds[self.fit_seeds.index(fit_seed)],)


SMALL = Size(
    fit_seeds=(0, 1),
    victim_seeds=(100,),
    victims=("resnet-10", "densenet-small", "convnet"),
    countermeasures=("shift_flip", "jpeg50", "8bit", "blur1", "half", "slow", "clean20"),
    contenders=(
        "salm, fresh, spared",
        "dense, fresh, spared",
        "random_mask, fresh, spared",
        "low_gradient, fresh, spared",
        "one_sided, coarse, rho 0.3",
        "salm",
        "random",
    ),
)
FULL = Size(
    fit_seeds=(0, 1, 2),
    victim_seeds=(100, 101, 102),
    victims=("resnet-10", "densenet-small", "convnet", "densenet-121", "efficientnet-b0"),
    countermeasures=tuple(m for m in COUNTERMEASURES if m != "none"),
    contenders=tuple(CONTENDERS),
)


def protected(protector: Protector, data: Images) -> tuple[Images, dict[str, float]]:
    """Return the protected images, and how far they are from the source.

    PSNR in dB (range 255), mean SSIM (range 255, Gaussian window of 11) and the share of pixels
    that changed.
    """
    stored = (data.pixels * 255).round()
    delta = torch.zeros_like(stored)
    for label, part, volume in volumes(data, together(protector.plan)):
        found = protector.apply(volume, series_uid=f"{part.start}", label=label)
        delta[part, 0] = torch.from_numpy(found.delta).float()
    error = float((delta**2).mean())
    psnr = 10 * math.log10(255**2 / error)
    changed = float((delta != 0).float().mean())
    found = replace(data, pixels=(stored + delta) / 255)
    similar, _ = compute_ssim_and_cs(
        found.pixels, stored / 255, 2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5)
    )
    return found, {"psnr": psnr, "ssim": float(similar.mean()), "changed": changed}


def fitted(plan: ProtectionPlan, data: Images, workspace: Path, device: str = "cpu") -> Protector:
    """Return a protector that was fitted on the images, as `salm-dicom fit` does it."""
    if not plan.needs_surrogate:
        return Protector(plan=plan)
    studies = [
        Study(label=label, load=lambda volume=volume: volume)
        for label, _, volume in volumes(data, together(plan))
    ]
    return replace(fit(studies, plan, workspace, device=device), device=device)


def together(plan: ProtectionPlan) -> int:
    """Return how many images make a series; without labels one, for series are of one class."""
    return 1 if plan.label_free else A_SERIES


def clustered(clusters: Clusters, plan: ProtectionPlan, data: Images) -> list[str]:
    """Return the cluster of each image, every one of which is a series of its own."""
    return [clusters.name_of(volume, plan) for _, _, volume in volumes(data, together(plan))]


def held_out(data: Images) -> Images:
    """Return the first 200 images of each class."""
    chosen = torch.cat([torch.arange(TO_VALIDATE) + c * A_CLASS for c in range(len(CLASSES))])
    return Images(pixels=data.pixels[chosen], labels=data.labels[chosen])


class Bench:
    """The run: reference trials on clean data once, then one row after the other."""

    def __init__(self, data: Data, size: Size, out: Path, weights: Path, device: str) -> None:
        self.data, self.size, self.out = data, size, out
        self.weights, self.device = weights, device
        self.clean: dict[tuple[str, str, int], Trial] = {}
        self.kept: dict[str, tuple[Images, Images]] = {}
        self.results: dict[str, object] = {
            "device": device, "size": asdict(size), "chance": CHANCE, "clean": {}, "rows": [],
            "robust": [], "left_out": [],
        }  # fmt: skip

    def attack(
        self, early: Images, late: Images, victim: str, seed: int, measure: str = "none"
    ) -> Trial:
        """Train a victim on `early`, validate it on a third of `late`, test it on clean images."""
        return trial(
            victim,
            early,
            validation=held_out(late),
            clean_validation=self.data.validation,
            test=self.data.test,
            seed=seed,
            countermeasure=measure,
            clean_train=self.data.early,
            weights=self.weights,
            device=self.device,
        )

    def reference(self, victim: str, measure: str, seed: int) -> Trial:
        """Return the trial of this victim on clean images, run once."""
        key = (victim, measure, seed)
        if key not in self.clean:
            self.clean[key] = self.attack(self.data.early, self.data.late, victim, seed, measure)
            self.results["clean"]["/".join(map(str, key))] = asdict(self.clean[key])
        return self.clean[key]

    def protection(self, found: Trial, clean: Trial) -> dict[str, float]:
        """Return the normalised protection at each stopping rule."""
        return {
            rule: normalised_protection(getattr(clean, rule), getattr(found, rule), CHANCE)
            for rule in RULES
        }

    def has_something_to_lose(self, victim: str, measure: str, seed: int) -> bool:
        """Return whether clean victims learn at all; else say so, here and in the results."""
        clean = self.reference(victim, measure, seed)
        if all(getattr(clean, rule) > CHANCE for rule in RULES):
            return True
        left_out = f"{victim}, {measure}, seed {seed}: learns nothing from clean images"
        if left_out not in self.results["left_out"]:
            self.results["left_out"].append(left_out)
            print(left_out, file=sys.stderr, flush=True)
        return False

    def row(self, name: str, fit_seed: int, workspace: Path) -> None:
        """Fit, protect both sets, attack; add one row for each victim."""
        began = time.perf_counter()
        plan = replace(CONTENDERS[name], seed=fit_seed)
        protector = fitted(plan, self.data.early, workspace, self.device)
        fit_seconds = time.perf_counter() - began
        early, fidelity = protected(protector, self.data.early)
        late, _ = protected(protector, self.data.late)
        apply_seconds = time.perf_counter() - began - fit_seconds
        passes = protector.report.get("slice_passes_per_image", 0.0)
        common = {
            "method": name, "fit_seed": fit_seed, "passes": passes, "fit_seconds": fit_seconds,
            "apply_seconds": apply_seconds / 2,
        } | fidelity  # fmt: skip
        if protector.clusters is not None:
            found = clustered(protector.clusters, protector.plan, self.data.early)
            common["clusters"] = agreement(self.data.early.labels.tolist(), found)
        sets = {"early": (early, late)}
        if name in LATE and self.size.late:
            sets["late"] = (late, early)
        for (which, (train, other)), victim, seed in product(
            sets.items(), self.size.victims, self.size.victim_seeds_of(fit_seed)
        ):
            if not self.has_something_to_lose(victim, "none", seed):
                continue
            found = self.attack(train, other, victim, seed)
            clean = self.reference(victim, "none", seed)
            row = common | {"set": which, "victim": victim, "victim_seed": seed}
            row |= {"trial": asdict(found), "np": self.protection(found, clean)}
            self.add("rows", row)
        if name in ROBUST and fit_seed == self.size.fit_seeds[0]:
            self.kept[name] = early, late

    def robust(self, name: str) -> None:
        """Attack the images of a contender with every countermeasure."""
        early, late = self.kept[name]
        seed = self.size.victim_seeds[0]
        for measure, victim in product(self.size.countermeasures, self.size.robust_victims):
            if not self.has_something_to_lose(victim, measure, seed):
                continue
            clean = self.reference(victim, measure, seed)
            found = self.attack(early, late, victim, seed, measure)
            row = {"method": name, "countermeasure": measure, "victim": victim}
            row["trial"] = asdict(found)
            row["np"] = self.protection(found, clean)
            self.add("robust", row)

    def add(self, table: str, row: dict[str, object]) -> None:
        """Print a row, keep it, and write all there are."""
        kept = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
        scores = " ".join(f"{rule} {value:.2f}" for rule, value in row["np"].items())
        print(" ".join(str(v) if isinstance(v, str | int) else f"{v:.3g}" for v in kept.values()),
              "| NP", scores, file=sys.stderr, flush=True)  # fmt: skip
        self.results[table].append(row)
        write_results(self.out, LIBRARIES, **self.results)


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{fmean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def areas_of(results: dict, rows: list[dict]) -> tuple[list[float], list[float]]:
    """Return the areas under the ROC curve of the clean victims of some rows, and of theirs."""
    names = ["/".join((row["victim"], "none", str(row["victim_seed"]))) for row in rows]
    return [results["clean"][n]["auc"] for n in names], [row["trial"]["auc"] for row in rows]


def table(results: dict) -> Iterator[str]:
    """Yield the lines of the tables, in Markdown."""
    yield "| method | set | NP selected | NP clean-selected | NP last | AUC, clean | AUC, protected | PSNR dB | SSIM | changed | passes | fit s | apply s | verdict |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    for name, which in dict.fromkeys((r["method"], r["set"]) for r in results["rows"]):
        rows = [r for r in results["rows"] if (r["method"], r["set"]) == (name, which)]
        rules = [[r["np"][k] for r in rows] for k in ("selected", "clean_selected", "last")]
        psnr, ssim, changed, passes, fit_s, apply_s = (
            fmean(r.get(k, math.nan) for r in rows)  # earlier runs have no SSIM
            for k in ("psnr", "ssim", "changed", "passes", "fit_seconds", "apply_seconds")
        )
        yield (
            f"| {name} | {which} | {' | '.join(map(spread, rules))} | "
            f"{' | '.join(map(spread, areas_of(results, rows)))} | {psnr:.1f} | {ssim:.3f} | "
            f"{changed:.2f} | {passes:.0f} | {fit_s:.0f} | {apply_s:.0f} | "
            f"{verdict(fmean(rules[0])).split(':')[0]} |"
        )
    yield from _clusters(results["rows"])
    yield from _trials(results["rows"])
    yield from compared([r for r in results["rows"] if r["set"] == "early"], COMPARED)
    yield from _robust(results["robust"])
    for line in results.get("left_out", ()):  # earlier runs have none
        yield f"\nLeft out: {line}."


def _robust(robust: list[dict]) -> Iterator[str]:
    """Yield what countermeasures leave of each method, also victim by victim."""
    names = list(dict.fromkeys(r["method"] for r in robust))
    if not names:
        return
    victims = list(dict.fromkeys(r["victim"] for r in robust))
    yield ""
    yield f"NP selected: mean and spread ({'; '.join(victims)}), of each fit."
    yield ""
    yield "| countermeasure | " + " | ".join(names) + " |"
    yield "|---|" + "---|" * len(names)
    for measure in dict.fromkeys(r["countermeasure"] for r in robust):
        cells = []
        for name in names:
            rows = [r for r in robust if (r["method"], r["countermeasure"]) == (name, measure)]
            found = [r["np"]["selected"] for r in rows]
            cells.append(f"{spread(found)} ({_by_victim(rows)})" if rows else "")
        yield f"| {measure} | " + " | ".join(cells) + " |"


def _by_victim(rows: list[dict], rule: str = "selected") -> str:
    """Return every value, first those of the first victim."""
    of_victim = {r["victim"]: [] for r in rows}
    for row in rows:
        of_victim[row["victim"]].append(f"{row['np'][rule]:.2f}")
    return "; ".join(" ".join(values) for values in of_victim.values())


def _trials(rows: list[dict]) -> Iterator[str]:
    """Yield the single trials behind the means."""
    if not rows:
        return
    yield ""
    yield "| method | set | fit seeds | NP selected, by victim | NP last |"
    yield "|---|---|---|---|---|"
    for name, which in dict.fromkeys((r["method"], r["set"]) for r in rows):
        mine = [r for r in rows if (r["method"], r["set"]) == (name, which)]
        seeds = " ".join(dict.fromkeys(str(r["fit_seed"]) for r in mine))
        yield f"| {name} | {which} | {seeds} | {_by_victim(mine)} | {_by_victim(mine, 'last')} |"


def compared(rows: list[dict], wanted: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the differences of methods in pairs of the same seeds and victim."""
    of = {(r["method"], r["fit_seed"], r["victim"], r["victim_seed"]): r["np"] for r in rows}
    known = {key[0] for key in of}
    pairs = [pair for pair in wanted if known.issuperset(pair)]
    if pairs:
        yield ""
        yield "| in pairs | NP selected: difference | better | t | p | NP last | t | p |"
        yield "|---|---|---|---|---|---|---|---|"
    for one, other in pairs:
        both = [(of[k], of[other, *k[1:]]) for k in of if k[0] == one and (other, *k[1:]) in of]
        cells = [f"| {one} less {other} "]
        for rule in ("selected", "last"):
            there = [pair for pair in both if None not in (pair[0][rule], pair[1][rule])]
            found, beside = ([pair[side][rule] for pair in there] for side in (0, 1))
            gains = [a - b for a, b in zip(found, beside, strict=True)]
            test = ttest_rel(found, beside)
            better = f"{sum(g > 0 for g in gains)} of {len(gains)} | " if rule == "selected" else ""
            cells.append(f"{spread(gains)} | {better}{test.statistic:.1f} | {test.pvalue:.3f} ")
        yield "| ".join(cells) + "|"


def _clusters(rows: list[dict]) -> Iterator[str]:
    """Yield how far clusters follow the labels, of methods that were given none."""
    found = {(r["method"], r["fit_seed"]): r["clusters"] for r in rows if "clusters" in r}
    if found:
        yield ""
        yield "| method | fit seed | clusters and labels: adjusted Rand | purity |"
        yield "|---|---|---|---|"
    for (name, seed), one in found.items():
        yield f"| {name} | {seed} | {one['adjusted_rand']:.2f} | {one['purity']:.2f} |"


def pooled(runs: list[dict]) -> dict:
    """Return the results of several runs as those of one."""
    clean = {name: one for run in runs for name, one in run["clean"].items()}
    parts = ("rows", "robust", "left_out")
    return {"clean": clean} | {k: [r for run in runs for r in run.get(k, ())] for k in parts}


def main() -> None:
    """Run what was asked for and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, nargs="+", metavar="FILE", help="of these runs")
    parser.add_argument("--full", action="store_true", help="3 x 3 seeds, 5 victims; many hours")
    parser.add_argument("--fit-seeds", type=int, nargs="*", help="instead of those of the size")
    parser.add_argument("--victim-seeds", type=int, nargs="*", help="instead of those of the size")
    parser.add_argument(
        "--in-step", action="store_true", help="the first fit seed with the first victim seed, ..."
    )
    parser.add_argument("--every-seed", action="store_true", help="fit all with every seed")
    parser.add_argument("--early-only", action="store_true", help="measure no late arrival")
    parser.add_argument("--countermeasures", nargs="*", choices=COUNTERMEASURES)
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, help="instead of the size's")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="instead of the size's")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("-o", type=Path, default=ROOT / "benchmarks" / "results" / "method.json")
    asked = parser.parse_args()
    if asked.tables:
        print("\n".join(table(pooled([json.loads(one.read_text()) for one in asked.tables]))))
        return
    torch.set_num_threads(1)
    size = FULL if asked.full else SMALL
    size = replace(
        size,
        fit_seeds=tuple(asked.fit_seeds or size.fit_seeds),
        victim_seeds=tuple(asked.victim_seeds or size.victim_seeds),
        victims=tuple(asked.victims or size.victims),
        contenders=tuple(asked.only or size.contenders),
        late=not asked.early_only,
        in_step=asked.in_step,
        countermeasures=tuple(
            size.countermeasures if asked.countermeasures is None else asked.countermeasures
        ),
    )
    if size.in_step and len(size.fit_seeds) != len(size.victim_seeds):
        parser.error("--in-step takes as many fit seeds as victim seeds")
    workspace = asked.o.parent
    workspace.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as weights:
        bench = Bench(load(), size, asked.o, Path(weights), device_of(asked.device))
        if set(WITH_WEIGHTS).intersection(size.countermeasures):
            known = backbones.write(size.robust_victims, bench.weights, size.victim_seeds[0])
            bench.results["backbones"] = known
        for seed, name in product(size.fit_seeds, size.contenders):
            if asked.full or asked.every_seed or seed == size.fit_seeds[0] or name in PAIRED:
                bench.row(name, seed, workspace)
        for name in bench.kept:
            bench.robust(name)
    print("\n".join(table(bench.results)))


if __name__ == "__main__":
    main()
