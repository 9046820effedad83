"""Does it protect masks of volumes? 3-D victims that learn where four organs lie in CT crops.

Run: .venv/bin/python benchmarks/volume_masks.py [--splits 0 1] [--only NAME ...] [--again]
Two patients, as in `volumes.py`: victims learn crops of one and are tested on the other. Each crop,
8 x 24 x 24 voxels of 3 mm, is a series of its own, with a mask of spleen, liver, stomach and back
muscle; crops overlap, and so do those that an epoch is chosen on and those that are learned.
Every method of a split takes three to five minutes on one core, is written when it is there, and
found by a later run. Fresh surrogates, each of whose fits takes over 13 minutes, are in --only.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measured import write_results  # noqa: E402
from benchmarks.method import spread  # noqa: E402
from benchmarks.volumes import (  # noqa: E402
    LIBRARIES,
    ORGANS,
    RULES,
    Patient,
    as_seen,
    changed,
    extents,
    fitted,
    patients,
    places,
    series,
    shared,
)
from salm_dicom.audit import (  # noqa: E402
    SEGMENTERS,
    Images,
    chance_of_masks,
    normalised_protection,
    trial,
    verdict,
)
from salm_dicom.intensity import CT_RANGE_HU  # noqa: E402
from salm_dicom.plan import ProtectionPlan  # noqa: E402
from salm_dicom.protector import Mask, Protector  # noqa: E402
from salm_dicom.protector.fit import Study  # noqa: E402
from salm_dicom.volume import Volume  # noqa: E402

CROP = (8, 24, 24)
PLAN = ProtectionPlan(
    objective="segmentation", epsilon="8/255", slice_size=CROP[1:], volume_size=CROP, rounds=4,
    batches=20, batch_size=32, momentum=0.5,
)  # fmt: skip
FRESH = replace(PLAN, surrogates="fresh", momentum=0.9, rounds=8)
CONTENDERS: dict[str, ProtectionPlan] = {
    "random": replace(PLAN, method="random"),
    "salm, slice": PLAN,
    "salm, volume": replace(PLAN, extent="volume"),
    "salm, slice, fresh": FRESH,
    "salm, volume, fresh": replace(FRESH, extent="volume"),
}
BUDGET_HU = math.floor(8 / 255 * (CT_RANGE_HU[1] - CT_RANGE_HU[0]))
# Not in the package: each organ gets a texture of its own, by slice, row and column.
TEXTURES: tuple[Callable[[Any, Any, Any], Any], ...] = (
    lambda z, row, column: column % 2,
    lambda z, row, column: (row + column) % 2,
    lambda z, row, column: row % 2,
    lambda z, row, column: (row // 2 + column) % 2,
)
TEXTURED = "a texture for each organ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Crops around each organ to learn from, to choose an epoch on, and to test on; epochs."""

    learn: int = 32
    choose: int = 12
    test: int = 20
    epochs: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """HU and numbers of organs from 1, 0 for none; (n, *CROP)."""

    values: NDArray[np.int16]
    organs: NDArray[np.uint8]

    def images(self) -> Images:
        """Return what victims see."""
        masks = torch.from_numpy(self.organs.astype(np.int64))
        return Images(pixels=as_seen(self.values), labels=masks[:, None])

    def volumes(self) -> Iterator[tuple[Mask, Volume]]:
        """Yield each crop's mask, and the crop as a CT series."""
        for values, organs in zip(self.values, self.organs, strict=True):
            yield Mask(names=tuple(ORGANS), values=organs), series(values)


def crops(of: Patient, each: int, rng: np.random.Generator) -> Crops:
    """Return so many crops around voxels of each organ, with the organs in them."""
    found = places(of, each, rng, CROP)
    return Crops(
        values=np.stack([of.values[place] for place in found]),
        organs=np.stack([of.organs[place] for place in found]),
    )


def textured(of: Crops) -> Crops:
    """Return crops whose organs carry their texture at the whole budget, but for clipped voxels."""
    z, row, column = np.indices(CROP)
    low, high = CT_RANGE_HU
    free = (of.values > low) & (of.values < high)
    change = np.zeros(of.values.shape, np.int16)
    for label, texture in enumerate(TEXTURES, start=1):
        signs = 2 * texture(z, row, column) - 1
        change += np.where(free & (of.organs == label), signs * BUDGET_HU, 0).astype(np.int16)
    return replace(of, values=of.values + change)


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
        each = size.learn + size.choose
        both = crops(known[number], each, rng)
        is_learned = np.tile(np.arange(each) < size.learn, len(ORGANS))
        learn, choose = (
            Crops(values=both.values[which], organs=both.organs[which])
            for which in (is_learned, ~is_learned)
        )
        return cls(learn=learn, choose=choose, test=crops(known[1 - number], size.test, rng))

    def protected(self, name: str) -> tuple[Crops, Crops, dict[str, Any]]:
        """Return the crops as they are shared, and what is worth saying of it."""
        report: dict[str, float] = {}
        if name == TEXTURED:
            learn, choose = textured(self.learn), textured(self.choose)
        else:
            studies = [
                Study(mask=lambda m=mask: m, load=lambda v=v: v) for mask, v in self.learn.volumes()
            ]
            protector = fitted(CONTENDERS[name], studies, self.fits)
            learn, choose = shared(protector, self.learn), shared(protector, self.choose)
            report = dict(protector.report)
        return learn, choose, changed(self.learn.values, learn.values) | {"report": report}


def measure(split: Split, name: str, size: Size, seed: int = 100) -> Iterator[dict[str, Any]]:
    """Yield a row for each victim of a contender; of `clean` it learns from the source."""
    learn, choose, about = split.learn, split.choose, {}
    if name != "clean":
        learn, choose, about = split.protected(name)
    test = split.test.images()
    for victim in SEGMENTERS:
        found = trial(
            victim, learn.images(), validation=choose.images(),
            clean_validation=split.choose.images(), test=test, seed=seed, epochs=size.epochs,
        )  # fmt: skip
        chance = chance_of_masks(test.labels)
        yield {"victim": victim, "chance": chance, "trial": asdict(found)} | about


def protections(
    rows: Sequence[dict[str, Any]], name: str, rule: str
) -> dict[tuple[int, str], float]:
    """Return the normalised protection of a contender by split and victim."""

    def of(method: str) -> dict[tuple[int, str], dict[str, Any]]:
        return {(row["split"], row["victim"]): row for row in rows if row["method"] == method}

    clean = of("clean")
    return {
        key: normalised_protection(clean[key]["trial"][rule], row["trial"][rule], row["chance"])
        for key, row in of(name).items()
    }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield what is printed, in Markdown."""
    for row in rows:
        if row["method"] == "clean":
            yield (
                f"Split {row['split']}, clean {row['victim']}: Dice {row['trial']['selected']:.2f} "
                f"on the other patient, {row['trial']['train']:.2f} on what it learned from; best "
                f"constant answer {row['chance']:.2f}."
            )
    yield ""
    yield "| method | Dice selected | on what was learned | NP selected | NP clean-selected | NP last | PSNR dB | changed | verdict |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(row["method"] for row in rows if row["method"] != "clean"):
        mine = [row for row in rows if row["method"] == name]
        cells = [spread([row["trial"][one] for row in mine]) for one in ("selected", "train")]
        found = [list(protections(rows, name, rule).values()) for rule in RULES[:3]]
        cells += [spread(of_rule) for of_rule in found]
        yield (
            f"| {name} | {' | '.join(cells)} | {fmean(row['psnr'] for row in mine):.1f} | "
            f"{fmean(row['changed'] for row in mine):.2f} | "
            f"{verdict(fmean(found[0])).split(':')[0]} |"
        )
    yield ""
    yield from extents(partial(protections, rows))


def main() -> None:
    """Run what was asked for and is not there, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*CONTENDERS, TEXTURED]
    parser.add_argument("--splits", type=int, nargs="+", choices=(0, 1), default=[0, 1])
    usual = [name for name in names if name == TEXTURED or not CONTENDERS[name].is_fresh]
    parser.add_argument("--only", nargs="+", choices=names, default=usual)
    parser.add_argument("--again", action="store_true", help="also what the results have")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "volume_masks.json"
    )
    asked = parser.parse_args()
    torch.set_num_threads(1)
    size, known = Size(), patients()
    before = json.loads(asked.json.read_text()) if asked.json.exists() else {}
    rows = before["rows"] if before.get("size") == asdict(size) and not asked.again else []
    for number in asked.splits:
        split = Split.of(number, known, size)
        for name in ("clean", *asked.only):
            if any((row["split"], row["method"]) == (number, name) for row in rows):
                continue
            for row in measure(split, name, size):
                rows.append({"split": number, "method": name} | row)
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            write_results(asked.json, LIBRARIES, size=asdict(size), rows=rows)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
