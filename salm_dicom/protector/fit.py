"""Fit: train the surrogates of a protector on labelled volumes, by sparse min-min.

    min over theta, u of  mean_i L(f_theta(N(s_i + round(u_i))), y_i),   u_i = 0 outside M_i

in rounds: a surrogate phase (batches of SGD on what is protected so far) and a noise phase (K
signed gradient steps for every sample). It ends after `plan.rounds`, or when three rounds have
not lowered the surrogate's error on what it was trained on. That is measured between the two
phases: on the perturbation just made for it, it hardly ever errs. The report also has its error on
the source images: where that is small it has learned anatomy, and the perturbation is no short way
for a victim. Targeted methods have no noise phase; those without a gradient need labels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.errors import InputError, NoForeground, NoLabel, PlanError
from salm_dicom.foreground import foreground
from salm_dicom.learning import NetworkSpec, error_rate, network_input, one_thread, train
from salm_dicom.perturb import Limits
from salm_dicom.plan import ProtectionPlan, intensity_range
from salm_dicom.protector.apply import Protector, budgets, per_slice, samples, slices_at_once
from salm_dicom.protector.surrogate import Surrogate
from salm_dicom.volume import Volume

_PATIENCE = 3
# A long series does not teach the surrogate more than this many of its slices do.
_SLICES_OF_A_SERIES = 24
_LEARNING_RATE = 0.02

# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One labelled volume; `load` is called once and its result is not kept in memory."""

    label: str
    load: Callable[[], Volume]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """Samples of one volume: stored values, foreground and shadow, memory-mapped on disk."""

    x: np.memmap
    mask: np.memmap
    shadow: np.memmap
    target: int
    slope: Tensor
    intercept: Tensor
    window: tuple[float, float]
    limits: Limits[Tensor]
    region: int | None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def part(self, which: slice) -> tuple[Tensor, Tensor, Tensor, Limits[Tensor]]:
        """Return stored values, foreground, shadow and limits of some samples."""
        x = torch.from_numpy(self.x[which].astype(np.float32))
        mask = torch.from_numpy(np.array(self.mask[which]))
        shadow = torch.from_numpy(self.shadow[which].astype(np.float32))
        limits = Limits(
            budget=self.limits.budget[which],
            low=self.limits.low,
            high=self.limits.high,
            padding=self.limits.padding,
        )
        return x, mask, shadow, limits


def fit(
    studies: Sequence[Study],
    plan: ProtectionPlan,
    workspace: Path,
    progress: Progress = lambda *_: None,
) -> Protector:
    """Return a protector whose surrogates were trained on the studies.

    Memory does not grow with the number of studies: samples lie in a temporary folder inside
    `workspace` and go when the fit ends.

    Raises
    ------
    NoLabel
        There are not two different labels, so that nothing can be learned.
    NoForeground
        No study has any anatomy.
    """
    classes = tuple(sorted({study.label for study in studies}))
    if len(classes) < 2:
        raise NoLabel(
            f"{len(studies)} labelled series with {len(classes)} different labels; a surrogate "
            "needs at least 2. Use --method random for a protection without labels"
        )
    if not plan.build_method().needs_gradient:
        return Protector(plan=plan, classes=classes)
    surrogates: dict[str, Surrogate] = {}
    report: dict[str, float] = {}
    extents = ("slice", "volume") if plan.extent == "volume" else ("slice",)
    for extent in extents:
        with TemporaryDirectory(dir=workspace, prefix="fit-") as folder, one_thread():
            found = _load(studies, classes, plan, extent, Path(folder), progress, report)
            surrogates[extent] = _min_min(found, plan, extent, len(classes), progress, report)
    return Protector(plan=plan, classes=classes, surrogates=surrogates, report=report)


def _load(
    studies: Sequence[Study],
    classes: tuple[str, ...],
    plan: ProtectionPlan,
    extent: str,
    folder: Path,
    progress: Progress,
    report: dict[str, float],
) -> list[_Sample]:
    """Return the samples of every study that can be read; the others are counted, not fatal."""
    found, skipped = [], 0
    for index, study in enumerate(studies):
        progress(f"read ({extent})", index, len(studies))
        try:
            volume = study.load()
            target = classes.index(study.label)
            for number, one in enumerate(volume.volumes()):
                if extent == "volume" and (one.irregular or len(one.pixels.values) == 1):
                    continue
                stem = folder / f"{index:06d}-{number:03d}"
                found.append(_sample(one, target, plan, extent, stem))
        except (InputError, PlanError):
            skipped += 1  # protecting the series will name the reason
    report[f"{extent}_skipped_series"] = float(skipped)
    progress(f"read ({extent})", len(studies), len(studies))
    if not found:
        raise NoForeground(f"no labelled series can be used to fit a surrogate of {extent} extent")
    if len({sample.target for sample in found}) < 2:
        raise NoLabel(f"the series that suit {extent} extent have one label only; 2 are needed")
    return found


def _sample(volume: Volume, target: int, plan: ProtectionPlan, extent: str, stem: Path) -> _Sample:
    pixels = volume.pixels
    mask = foreground(pixels, volume.modality, volume.photometric)
    if not mask.any():
        raise NoForeground("no anatomy was found: the image is constant, air or padding")
    window = intensity_range(plan, volume, mask.__getitem__)
    budget = budgets(plan, volume, window)
    if pixels.room is not None:
        mask &= pixels.room >= budget[:, None, None]
    count = len(mask)
    chosen = np.arange(count)
    if extent == "slice":
        chosen = np.flatnonzero(mask.reshape(count, -1).any(axis=1))
        spread = np.linspace(0, len(chosen) - 1, min(len(chosen), _SLICES_OF_A_SERIES))
        chosen = chosen[np.unique(spread.round().astype(int))]
    x = samples(pixels.values[chosen], extent)
    low, high = pixels.extremes()
    return _Sample(
        x=_on_disk(stem.with_suffix(".x.npy"), x),
        mask=_on_disk(stem.with_suffix(".mask.npy"), samples(mask[chosen], extent)),
        shadow=_on_disk(stem.with_suffix(".shadow.npy"), np.zeros(x.shape, np.float16)),
        target=target,
        slope=torch.from_numpy(per_slice(pixels.slope[chosen], extent)),
        intercept=torch.from_numpy(per_slice(pixels.intercept[chosen], extent)),
        window=window,
        limits=Limits(
            budget=torch.from_numpy(per_slice(budget[chosen], extent)),
            low=low,
            high=high,
            padding=pixels.padding,
        ),
        region=plan.region_edge(volume),
    )


def _min_min(
    found: Sequence[_Sample],
    plan: ProtectionPlan,
    extent: str,
    classes: int,
    progress: Progress,
    report: dict[str, float],
) -> Surrogate:
    size = plan.slice_size if extent == "slice" else plan.volume_size
    spec = NetworkSpec(size=size, classes=classes)
    network = spec.build(plan.seed)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=_LEARNING_RATE, momentum=0.9, weight_decay=5e-4
    )
    rng = torch.Generator().manual_seed(plan.seed)
    places = [(one, i) for one in range(len(found)) for i in range(len(found[one]))]

    batches = partial(_batch, found, places, plan, size)
    min_min = not plan.build_method().label_shift
    best, error, waited, rounds = float("inf"), 1.0, 0, 0
    while rounds < plan.rounds and waited < _PATIENCE:
        progress(f"fit ({extent})", rounds, plan.rounds)
        train(network, optimiser, batches, plan.batches, rng)
        error = _error(network, found, size)
        best, waited = (error, 0) if error < best else (best, waited + 1)
        frozen = network.eval().requires_grad_(False)
        for sample in found if min_min else ():
            _perturb_sample(sample, frozen, plan, size, rng)
        network.requires_grad_(True)
        rounds += 1
    progress(f"fit ({extent})", plan.rounds, plan.rounds)
    passes = rounds * (plan.steps * min_min + plan.batches * plan.batch_size / len(places))
    report |= {
        f"{extent}_samples": float(len(places)),
        f"{extent}_rounds": float(rounds),
        f"{extent}_error_on_protected": error,
        f"{extent}_error_on_source": _error(network, found, size, plain=True),
        f"{extent}_passes_per_image": passes,
    }
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    return Surrogate(spec=spec, weights=weights)


def _batch(
    found: Sequence[_Sample],
    places: Sequence[tuple[int, int]],
    plan: ProtectionPlan,
    size: tuple[int, ...],
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return what the surrogate sees of samples drawn at random, and their labels."""

    def draw(plain: bool, drawn: Sequence[int]) -> Tensor:
        at = (places[d] for d in drawn)
        return torch.cat([_input(found[one], i, size, plain=plain) for one, i in at])

    drawn = torch.randint(len(places), (plan.batch_size,), generator=rng).tolist()
    inputs = draw(False, drawn)
    if plan.swap:
        others = torch.randint(len(places), (plan.batch_size,), generator=rng).tolist()
        swapped = (draw(True, others) + inputs - draw(True, drawn)).clamp(0, 1)
        lots = torch.rand((len(inputs), *[1] * (inputs.ndim - 1)), generator=rng)
        inputs = torch.where(lots < plan.swap, swapped, inputs)
    return inputs, torch.tensor([found[places[d][0]].target for d in drawn])


def _perturb_sample(
    sample: _Sample,
    network: nn.Module,
    plan: ProtectionPlan,
    size: tuple[int, ...],
    rng: torch.Generator,
) -> None:
    """Advance the shadow of one volume's samples by one noise phase."""
    method = plan.build_method(region=sample.region)
    together = slices_at_once(sample.x.shape) if sample.x.ndim == 4 else 1
    for first in range(0, len(sample), together):
        which = slice(first, first + together)
        x, mask, shadow, limits = sample.part(which)
        slope, intercept = sample.slope[which], sample.intercept[which]

        def loss(stored: Tensor, slope: Tensor = slope, intercept: Tensor = intercept) -> Tensor:
            logits = network(network_input(stored, slope, intercept, sample.window, size))
            labels = torch.full((len(logits),), sample.target)
            return functional.cross_entropy(logits, labels, reduction="sum")

        sample.shadow[which] = method(x, loss, mask, limits, rng, shadow).numpy()


def _input(sample: _Sample, index: int, size: tuple[int, ...], *, plain: bool = False) -> Tensor:
    """Return what the surrogate sees of one sample, protected or plain, shape (1, 1, *size)."""
    which = slice(index, index + 1)
    x, _, shadow, _ = sample.part(which)
    protected = x if plain else x + torch.round(shadow)
    return network_input(
        protected, sample.slope[which], sample.intercept[which], sample.window, size
    )


def _error(
    network: nn.Module, found: Sequence[_Sample], size: tuple[int, ...], *, plain: bool = False
) -> float:
    """Return the share of samples, protected or plain, whose label the network does not see."""
    wrong = [
        error_rate(network, _input(one, i, size, plain=plain), torch.tensor([one.target]))
        for one in found
        for i in range(len(one))
    ]
    return sum(wrong) / len(wrong)


def _on_disk(path: Path, values: np.ndarray) -> np.memmap:
    np.save(path, values)
    mapped: np.memmap = np.load(path, mmap_mode="r+")
    return mapped
