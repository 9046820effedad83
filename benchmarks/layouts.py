"""How quickly a surrogate gives gradients of its input: memory layouts, bfloat16, compiling.

Run: .venv/bin/python benchmarks/layouts.py [--repeats 31] [--kinds NAME ...] [--no-compile]
Processor time of one thread, all ways in turns; a compiled network takes a minute to make. Each
way's signs are compared with those of the plain one: a step of a method follows nothing else.
"""

from __future__ import annotations

import copy
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measured import arguments, write_results  # noqa: E402
from salm_dicom.networks import NetworkSpec  # noqa: E402
from salm_dicom.objectives import OBJECTIVES  # noqa: E402

LIBRARIES = ("torch", "monai")
CLASSES = 4
# Surrogates and how many samples each sees together.
KINDS: dict[str, tuple[NetworkSpec, int]] = {
    "images, 128 x 128": (NetworkSpec(size=(128, 128), classes=CLASSES), 4),
    "images, 28 x 28": (NetworkSpec(size=(28, 28), classes=CLASSES), 24),
    "masks, 128 x 128": (
        NetworkSpec(size=(128, 128), classes=CLASSES, objective="segmentation"), 4,
    ),
    "volumes, 16 x 96 x 96": (NetworkSpec(size=(16, 96, 96), classes=CLASSES), 1),
}  # fmt: skip

Gradient = Callable[[], Tensor]


def ways(spec: NetworkSpec, count: int, *, compiling: bool) -> Iterator[tuple[str, Gradient]]:
    """Yield each way by name; the first is the plain one."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand((count, 1, *spec.size), generator=rng)
    shape = (count, 1, *spec.size) if spec.objective == "segmentation" else (count,)
    wanted = torch.randint(0, CLASSES, shape, generator=rng)
    last = torch.channels_last if len(spec.size) == 2 else torch.channels_last_3d
    plain = spec.build(0).eval().requires_grad_(False)
    turned = copy.deepcopy(plain).to(memory_format=last)

    def gradient(network: nn.Module, *, halved: bool = False) -> Tensor:
        leaf = x.clone().requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16, enabled=halved):
            outputs = network(leaf)
        loss = OBJECTIVES[spec.objective].loss(outputs.float(), wanted)
        (slope,) = torch.autograd.grad(loss, leaf)
        return slope

    yield "plain", lambda: gradient(plain)
    yield "channels last", lambda: gradient(turned)
    yield "bfloat16", lambda: gradient(plain, halved=True)
    yield "bfloat16, channels last", lambda: gradient(turned, halved=True)
    if compiling and len(spec.size) == 2:  # torch 2.13 fails at networks for volumes
        compiled = torch.compile(plain)
        yield "compiled", lambda: gradient(compiled)


def measured(spec: NetworkSpec, count: int, repeats: int, *, compiling: bool) -> dict[str, Any]:
    """Return for each way ms a sample, ratios to the plain one, share of equal signs, first s."""
    found = dict(ways(spec, count, compiling=compiling))
    signs, first = {}, {}
    for name, way in found.items():
        began = time.perf_counter()
        signs[name] = way().sign()  # and warm up
        first[name] = time.perf_counter() - began
    seconds = {name: [0.0] * repeats for name in found}
    for turn in range(repeats):
        for name, way in found.items():
            start = time.process_time()
            way()
            seconds[name][turn] = time.process_time() - start
    return {
        name: {
            "ms": median(each) * 1000 / count,
            "ratios": [a / b for a, b in zip(each, seconds["plain"], strict=True)],
            "same_signs": (signs[name] == signs["plain"]).float().mean().item(),
            "first_call_s": first[name],
        }
        for name, each in seconds.items()
    }


def table(rows: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| surrogate of | | ms | to plain (quartiles) | same signs | first call, s |"
    yield "|---|---|---|---|---|---|"
    for kind, row in rows.items():
        for name, way in row.items():
            low, middle, high = quartiles(way["ratios"])
            yield (
                f"| {kind} | {name} | {way['ms']:.1f} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
                f"{100 * way['same_signs']:.2f} % | {way['first_call_s']:.1f} |"
            )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first, second and third."""
    ranked = sorted(values)
    return ranked[len(ranked) // 4], median(ranked), ranked[-1 - len(ranked) // 4]


def main() -> None:
    """Measure, print a table and write the numbers as JSON."""
    parser = arguments(__doc__, "layouts", repeats=31)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--no-compile", dest="compiling", action="store_false")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    kept = tempfile.TemporaryDirectory()  # what was compiled before takes no time
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept.name
    for kind in asked.kinds:
        spec, count = KINDS[kind]
        rows[kind] = measured(spec, count, asked.repeats, compiling=asked.compiling)
        write_results(asked.json, LIBRARIES, repeats=asked.repeats, kinds=rows)
    print("\n".join(table(rows)))
    kept.cleanup()


if __name__ == "__main__":
    main()
