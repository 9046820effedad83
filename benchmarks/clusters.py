"""How far the clusters of a label-free fit follow the real labels, on images and on later ones.

Run: .venv/bin/python benchmarks/clusters.py [--data pneumonia mednist] [--seeds 0 1] [--again]
SALM_SHARED names the folder whose data/ has pneumoniamnist/ and mednist_subset/ (else ../shared).
Every image is a series of its own; those without anatomy are left out, as `fit` does. Beside the
encoder of the fit: K-means of the pixels, and the purity of as many clusters drawn by chance. One
to four minutes a seed on one core; a row is written when it is there, and found by a later run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import pneumonia  # noqa: E402
from benchmarks.agreement import agreement  # noqa: E402
from benchmarks.audit import DATA  # noqa: E402
from benchmarks.measured import write_results  # noqa: E402
from benchmarks.method import CONTENDERS  # noqa: E402
from salm_dicom.foreground import foreground  # noqa: E402
from salm_dicom.learning import reproducible  # noqa: E402
from salm_dicom.protector.clusters import clustered, k_means  # noqa: E402
from salm_dicom.protector.fit import Study  # noqa: E402

LIBRARIES = ("salm_dicom", "torch", "monai", "numpy")
PLAN = CONTENDERS["salm, label-free"]
# Of each of the six body parts; half of them for the fit.
OF_A_PART = 280
# More rows than this make K-means of pixels slow.
_LARGE = 32
SETS = ("pneumonia", "mednist")

Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]


def sets(name: str) -> tuple[Pictures, Pictures]:
    """Return the images of the fit and later ones with their labels; as many of each label."""
    if name == "pneumonia":
        data = pneumonia.load()
        early, late = (
            ((one.pixels[:, 0] * 255).round().to(torch.uint8).numpy(), one.labels.numpy())
            for one in (data.early, data.late)
        )
        return early, late
    half, of_label = OF_A_PART // 2, list(DATA[name].read().values())
    labels = np.repeat(np.arange(len(of_label)), half)
    parts = [np.concatenate([one[i : i + half] for one in of_label]) for i in (0, half)]
    return (parts[0], labels), (parts[1], labels)


def measure(name: str, seed: int) -> dict[str, Any]:
    """Return the agreement on the fit's images and on later ones."""
    early, late = map(_with_anatomy, sets(name))
    plan = replace(PLAN, slice_size=early[0].shape[1:], seed=seed)
    studies = [Study(load=lambda one=one: pneumonia.volume(one[None])) for one in early[0]]
    with tempfile.TemporaryDirectory() as folder, reproducible():
        labelled, found = clustered(studies, plan, Path(folder), _unheard, _refuse)
    pixels = _flat(early[0])
    centroids, places = k_means(pixels, plan.clusters, torch.Generator().manual_seed(seed))
    later = torch.cdist(_flat(late[0]), centroids).argmin(1)
    by_chance = np.random.default_rng(seed).permutation(places.numpy())
    joined = [found.name_of(pneumonia.volume(one[None]), plan) for one in late[0]]
    return {
        "data": name, "seed": seed, "images": len(early[0]), "later": len(late[0]),
        "clusters": plan.clusters,
        "fit": agreement(early[1], [one.label for one in labelled]),
        "late": agreement(late[1], joined),
        "pixels": agreement(early[1], places.tolist()),
        "pixels, late": agreement(late[1], later.tolist()),
        "chance": agreement(early[1], by_chance.tolist()),
    }  # fmt: skip


def _with_anatomy(pictures: Pictures) -> Pictures:
    """Return the images in which anything counts as anatomy: others cannot be protected."""
    images, labels = pictures
    volumes = (pneumonia.volume(one[None]) for one in images)
    kept = [bool(foreground(one.pixels, one.modality).any()) for one in volumes]
    return images[kept], labels[kept]


def _flat(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return the pixels of each image, of large ones the means of 2 x 2."""
    seen = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    return functional.avg_pool2d(seen, 2 if seen.shape[-1] > _LARGE else 1).flatten(1)


def _unheard(*_: object) -> None:
    pass


def _refuse(place: int, code: str, reason: str) -> None:
    raise SystemExit(f"image {place}: {code} {reason}")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the means over seeds, in Markdown."""
    lines = ["| images | grouped by | adjusted Rand | purity |", "|---|---|---|---|"]
    ways = {
        "fit": "label-free fit",
        "late": "label-free fit, later images",
        "pixels": "K-means of pixels",
        "pixels, late": "K-means of pixels, later images",
        "chance": "chance",
    }
    for name in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == name]
        for key, way in ways.items():
            cells = [
                _cell([row[key][which] for row in mine]) for which in ("adjusted_rand", "purity")
            ]
            lines.append(f"| {name} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    """Return the mean and what it is of; no zero has a sign."""
    mean, *each = (f"{round(one, 2) + 0:.2f}" for one in (fmean(values), *values))
    return f"{mean} ({', '.join(each)})" if len(each) > 1 else mean


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--again", action="store_true", help="also what the results have")
    parser.add_argument(
        "--json", type=Path, default=ROOT / "benchmarks" / "results" / "clusters.json"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(chosen.json.read_text())["rows"] if chosen.json.exists() else []
    if chosen.again:
        rows = []
    for name, seed in product(chosen.data, chosen.seeds):
        if not any((row["data"], row["seed"]) == (name, seed) for row in rows):
            rows.append(measure(name, seed))
            print(rows[-1], file=sys.stderr, flush=True)
            write_results(chosen.json, LIBRARIES, rows=rows)
    print(table(rows))


if __name__ == "__main__":
    main()
