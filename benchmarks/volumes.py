"""Does it protect volumes? 3-D victims that learn which organ lies in the middle of a CT crop.

Run: .venv/bin/python benchmarks/volumes.py [--splits 0 1] [--seeds 0 1 2] [--only NAME ...]
    [--again | --tables]
SALM_SHARED names the folder whose data/ has nifti_ct_seg/ and ct_siemens_j2k_series/ (else
../shared): two patients with organs. Victims learn crops of one and are tested on the other; a
split says which. Each crop, 8 x 16 x 16 voxels of 3 mm, is a series of its own; crops of an organ
overlap, and so do those that an epoch is chosen on and those that are learned. Every seed has fits
and victims of its own, the same crops.
Every method of a split and seed takes one to three minutes on one core, a first one of fresh
surrogates ten; it is written when it is there, and found by a later run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation
from numpy.typing import NDArray
from scipy.stats import ttest_rel
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measured import shared_file, write_results  # noqa: E402
from benchmarks.method import RULES, spread  # noqa: E402
from salm_dicom.audit import Images, Trial, protection_if_any, trial, verdict  # noqa: E402
from salm_dicom.intensity import CT_RANGE_HU  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from salm_dicom.protector import Protector  # noqa: E402
from salm_dicom.protector.fit import Study, fit  # noqa: E402
from salm_dicom.transforms import LoadVolume  # noqa: E402
from salm_dicom.volume import StoredPixels, Volume  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy")
CROP, SPACING_MM = (8, 16, 16), 3.0
# Numbers in TotalSegmentator's label maps of what both patients show enough of.
ORGANS: dict[str, tuple[int, ...]] = {
    "spleen": (1,), "liver": (5,), "stomach": (6,), "back muscle": (86, 87),
}  # fmt: skip
CHANCE = 1 / len(ORGANS)
PLAN = ProtectionPlan(
    epsilon="8/255", slice_size=CROP[1:], volume_size=CROP, rounds=4, batches=20, batch_size=32,
    momentum=0.5,
)  # fmt: skip
FRESH = replace(PLAN, surrogates="fresh", momentum=0.9, rounds=8)
CONTENDERS: dict[str, ProtectionPlan] = {
    "random": replace(PLAN, method="random"),
    "one_sided": replace(PLAN, method="one_sided"),
    "salm, slice": PLAN,
    "salm, volume": replace(PLAN, extent="volume"),
    "salm, volume, between slices": replace(PLAN, extent="volume", between_slices=0.5),
    "salm, slice, fresh": FRESH,
    "salm, volume, fresh": replace(FRESH, extent="volume"),
    "salm, slice, fresh, spared": replace(FRESH, spare_one=True),
    "salm, volume, fresh, spared": replace(FRESH, extent="volume", spare_one=True),
}
VICTIMS = ("resnet-10", "densenet-small", "convnet")
# Fewer pairs say nothing of chance.
FEWEST = 3
# Returns the protections of a contender by a rule: of each trial, None where nothing was learned.
Found = Callable[[str, str], Mapping[tuple[Any, ...], float | None]]
# Victims of seed n begin with weights of this seed and n.
VICTIMS_FROM = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Crops of each organ to learn from, to choose an epoch on, and to test on; epochs."""

    learn: int = 60
    choose: int = 20
    test: int = 40
    epochs: int = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """HU and numbers of organs from 1, 0 for none; (slices, rows, columns) of 3 mm."""

    values: NDArray[np.int16]
    organs: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """HU, (n, *CROP), and which organ lies in the middle of each, from 0."""

    values: NDArray[np.int16]
    labels: NDArray[np.int64]

    def images(self) -> Images:
        """Return what victims see."""
        return Images(pixels=as_seen(self.values), labels=torch.from_numpy(self.labels))

    def volumes(self) -> Iterator[tuple[str, Volume]]:
        """Yield the name of each crop's organ, and the crop as a CT series."""
        names = list(ORGANS)
        for values, label in zip(self.values, self.labels, strict=True):
            yield names[label], series(values)


def as_seen(values: NDArray[np.int16]) -> Tensor:
    """Return what networks see of HU, (n, slices, rows, columns): (n, 1, ...), 0 to 1."""
    low, high = CT_RANGE_HU
    scaled = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    return torch.from_numpy(scaled)[:, None]


def series(values: NDArray[np.int16]) -> Volume:
    """Return HU, (slices, rows, columns), as a CT series."""
    pixels = StoredPixels(
        values=values, slope=np.ones(len(values)), intercept=np.zeros(len(values)),
        bits_stored=16, signed=True,
    )  # fmt: skip
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    return Volume(pixels=pixels, affine=affine, modality="CT")


def patients() -> tuple[Patient, Patient]:
    """Return both patients."""
    pairs = (
        ("nifti_ct_seg/example_ct_sm.nii.gz", "nifti_ct_seg/example_seg.nii.gz"),
        ("ct_siemens_j2k_series/dicom", "ct_siemens_j2k_series/example_seg_dicom.nii.gz"),
    )
    one, other = (patient(shared_file(image), shared_file(organs)) for image, organs in pairs)
    return one, other


def patient(image: Path, organs: Path) -> Patient:
    """Return an image and its label map, both turned to RAS and brought to 3 mm."""
    upright = Orientation(axcodes="RAS", labels=None)
    seen = upright(LoadVolume(modality="CT")(image))
    known = Compose([LoadImage(image_only=True), EnsureChannelFirst(), upright])(organs)
    if seen.shape != known.shape or not torch.allclose(seen.affine, known.affine, atol=1e-2):
        raise SystemExit(f"{organs.name} does not lie on the grid of its image")
    edges = zip(seen.shape[1:], seen.pixdim.tolist(), strict=True)
    size = [round(edge * mm / SPACING_MM) for edge, mm in edges]

    def brought(values: Any, mode: str) -> Tensor:
        plain = torch.as_tensor(np.asarray(values), dtype=torch.float32)
        resized = functional.interpolate(plain[None], size, mode=mode)
        return resized[0, 0].permute(2, 1, 0)

    numbers = brought(known, "nearest-exact").numpy()
    named = np.zeros(numbers.shape, np.uint8)
    for place, of_organ in enumerate(ORGANS.values(), start=1):
        named[np.isin(numbers, of_organ)] = place
    values = brought(seen, "area").round().numpy().astype(np.int16)
    return Patient(values=values, organs=named)


def places(
    of: Patient, each: int, rng: np.random.Generator, crop: tuple[int, ...]
) -> list[tuple[slice, ...]]:
    """Return where so many crops around voxels of each organ lie, drawn at random, none twice."""
    half = [edge // 2 for edge in crop]
    inside = np.zeros_like(of.organs)
    whole = tuple(slice(h, n - h + 1) for h, n in zip(half, of.organs.shape, strict=True))
    inside[whole] = of.organs[whole]
    found = []
    for label in range(1, len(ORGANS) + 1):
        middles = rng.permutation(np.argwhere(inside == label))[:each]
        if len(middles) < each:
            raise SystemExit(f"an organ has {len(middles)} crops, {each} are wanted")
        for middle in middles:
            found.append(tuple(slice(m - h, m + h) for m, h in zip(middle, half, strict=True)))
    return found


def crops(of: Patient, each: int, rng: np.random.Generator) -> Crops:
    """Return so many crops around voxels of each organ."""
    values = [of.values[place] for place in places(of, each, rng, CROP)]
    return Crops(values=np.stack(values), labels=np.repeat(np.arange(len(ORGANS)), each))


def shared(protector: Protector, of: Any) -> Any:
    """Return crops, of labels or of masks, as a protector shares them."""
    deltas = [
        protector.apply(volume, series_uid=str(number), label=known).delta
        for number, (known, volume) in enumerate(of.volumes())
    ]
    return replace(of, values=of.values + np.stack(deltas).astype(np.int16))


def changed(before: NDArray[np.int16], after: NDArray[np.int16]) -> dict[str, float]:
    """Return PSNR in dB within the window, and the share of voxels that changed."""
    change = (after - before).astype(np.float64)
    low, high = CT_RANGE_HU
    psnr = 10 * math.log10((high - low) ** 2 / float((change**2).mean()))
    return {"psnr": psnr, "changed": float((change != 0).mean())}


def fitted(
    plan: ProtectionPlan, studies: Sequence[Study], fits: dict[ProtectionPlan, Protector]
) -> Protector:
    """Return a protector; a fit of volume extent, kept in `fits`, has the surrogate of slices.

    A label that is spared is no matter of the fit.
    """
    if not plan.needs_surrogate:
        return Protector(plan=plan)
    wanted = replace(plan, extent="volume", spare_one=False)
    if wanted not in fits:
        with tempfile.TemporaryDirectory() as folder:
            fits[wanted] = fit(studies, wanted, Path(folder))
    return replace(fits[wanted], plan=plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Clean crops of the patient to learn from, and of the one to test on; what was fitted."""

    learn: Crops
    choose: Crops
    test: Crops
    fits: dict[ProtectionPlan, Protector] = field(default_factory=dict)

    @classmethod
    def of(cls, number: int, known: Sequence[Patient], size: Size) -> Split:
        """Return the split in which a patient of this number is learned from."""
        rng = np.random.default_rng(number)
        both = crops(known[number], size.learn + size.choose, rng)
        is_learned = np.tile(np.arange(size.learn + size.choose) < size.learn, len(ORGANS))
        learn, choose = (
            Crops(values=both.values[which], labels=both.labels[which])
            for which in (is_learned, ~is_learned)
        )
        return cls(learn=learn, choose=choose, test=crops(known[1 - number], size.test, rng))

    def attack(self, victim: str, seed: int, learn: Crops, choose: Crops, epochs: int) -> Trial:
        """Return what a victim reaches that has only what was shared of a patient."""
        return trial(
            victim, learn.images(), validation=choose.images(),
            clean_validation=self.choose.images(), test=self.test.images(), seed=seed,
            epochs=epochs,
        )  # fmt: skip

    def protected(self, plan: ProtectionPlan) -> tuple[Crops, Crops, dict[str, Any]]:
        """Return the crops as they are shared, and what is worth saying of it."""
        began = time.perf_counter()
        studies = [Study(label=name, load=lambda v=v: v) for name, v in self.learn.volumes()]
        protector = fitted(plan, studies, self.fits)
        learn, choose = shared(protector, self.learn), shared(protector, self.choose)
        about = changed(self.learn.values, learn.values) | {
            "report": dict(protector.report), "seconds": time.perf_counter() - began,
        }  # fmt: skip
        return learn, choose, about


def measure(split: Split, name: str, seed: int, size: Size) -> Iterator[dict[str, Any]]:
    """Yield a row for each victim of a contender; of `clean` it learns from the source."""
    learn, choose, about = split.learn, split.choose, {}
    if name != "clean":
        learn, choose, about = split.protected(replace(CONTENDERS[name], seed=seed))
    for victim in VICTIMS:
        found = split.attack(victim, VICTIMS_FROM + seed, learn, choose, size.epochs)
        yield {"seed": seed, "victim": victim, "trial": asdict(found)} | about


def protections(
    rows: Sequence[dict[str, Any]], name: str, rule: str
) -> dict[tuple[Any, ...], float | None]:
    """Return the normalised protection of a contender by split, victim and seed.

    None where the clean victim is hardly better than guessing, as in an audit.
    """

    def scores(method: str) -> dict[tuple[Any, ...], float]:
        mine = (row for row in rows if row["method"] == method)
        return {(row["split"], row["victim"], row["seed"]): row["trial"][rule] for row in mine}

    clean = scores("clean")
    return {key: protection_if_any(clean[key], one, CHANCE) for key, one in scores(name).items()}


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is printed, in Markdown."""
    clean = [row for row in rows if row["method"] == "clean"]
    for number in dict.fromkeys(row["split"] for row in clean):
        mine = [row for row in clean if row["split"] == number]
        of_victim = [
            f"{name} {', '.join(_score(row) for row in mine if row['victim'] == name)}"
            for name in VICTIMS
        ]
        scores = "; ".join(of_victim)
        yield f"Split {number}, clean victims: balanced accuracy {scores}; guessing {CHANCE:.2f}."
    yield ""
    yield "| method | accuracy selected | NP selected | NP clean-selected | NP last | PSNR dB | changed | verdict |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(row["method"] for row in rows if row["method"] != "clean"):
        mine = [row for row in rows if row["method"] == name]
        found = [list(protections(rows, name, rule).values()) for rule in RULES[:3]]
        cells = [_known(of_rule) for of_rule in found]
        known = [one for one in found[0] if one is not None]
        yield (
            f"| {name} | {spread([row['trial']['selected'] for row in mine])} | "
            f"{' | '.join(cells)} | {fmean(row['psnr'] for row in mine):.1f} | "
            f"{fmean(row['changed'] for row in mine):.2f} | "
            f"{verdict(fmean(known)).split(':')[0] if known else 'unknown'} |"
        )
    yield ""
    found = partial(protections, rows)
    yield from extents(found)
    yield ""
    for name in CONTENDERS:
        if name.startswith("salm"):
            yield from beside(found, name, "random", f"{name} less random")


def _score(row: dict[str, Any]) -> str:
    return f"{row['trial']['selected']:.2f}"


def _known(found: Sequence[float | None]) -> str:
    values = [value for value in found if value is not None]
    unknown = f" ({len(found) - len(values)} unknown)" if len(values) < len(found) else ""
    return spread(values) + unknown if values else "unknown"


def extents(found: Found) -> Iterator[str]:
    """Yield how volume extent does against slice extent, victim by victim."""
    for surrogates in ("", ", fresh", ", fresh, spared"):
        pair = (f"salm, {extent}{surrogates}" for extent in ("volume", "slice"))
        yield from beside(found, *pair, f"Volume less slice extent{surrogates}")


def beside(found: Found, one: str, other: str, title: str) -> Iterator[str]:
    """Yield how a contender does against another in pairs where both are known, if any are."""
    for rule in ("selected", "last"):
        mine, others = found(one, rule), found(other, rule)
        both = [(mine[key], others[key]) for key in mine if key in others]
        pairs = [(a, b) for a, b in both if a is not None and b is not None]
        if pairs:
            gains = [a - b for a, b in pairs]
            line = f"{title}, NP {rule}: {spread(gains)}, more in {sum(g > 0 for g in gains)} of "
            line += f"{len(gains)} pairs"
            if len(pairs) >= FEWEST:
                line += f" (p = {ttest_rel(*zip(*pairs, strict=True)).pvalue:.3f})"
            yield f"{line}."


def main() -> None:
    """Run what was asked for and is not there, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--splits", type=int, nargs="+", choices=(0, 1), default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--again", action="store_true", help="also what the results have")
    parser.add_argument("--tables", action="store_true", help="print what the results have")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "volumes.json"
    )
    asked = parser.parse_args()
    if asked.tables:
        print("\n".join(table(json.loads(asked.json.read_text())["rows"])))
        return
    torch.set_num_threads(1)
    size, known = Size(), patients()
    before = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    rows = before["rows"] if before.get("size") == asdict(size) and not asked.again else []
    for number in asked.splits:
        split = Split.of(number, known, size)
        for seed, name in product(asked.seeds, ("clean", *asked.only)):
            if any((r["split"], r["seed"], r["method"]) == (number, seed, name) for r in rows):
                continue
            for row in measure(split, name, seed, size):
                rows.append({"split": number, "method": name} | row)
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            write_results(asked.json, LIBRARIES, size=asdict(size), rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
