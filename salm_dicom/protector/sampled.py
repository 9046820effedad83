"""Sampled: what a fit learns from, samples of labelled volumes that lie on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from salm_dicom.errors import InputError, NoForeground, NoLabel, PlanError, SalmDicomError
from salm_dicom.foreground import foreground
from salm_dicom.intensity import budgets, intensity_range, region_edge
from salm_dicom.learning import network_input
from salm_dicom.objectives import network_target
from salm_dicom.perturb import Limits
from salm_dicom.plan import ProtectionPlan
from salm_dicom.preprocessing import Preprocessing
from salm_dicom.protector.patched import patch_of, patches_of
from salm_dicom.protector.samples import chosen_slices, per_slice, samples
from salm_dicom.protector.target import Mask, check_shape, labelled, names_of, near
from salm_dicom.volume import Volume

# A long series does not teach the surrogate more than this many of its slices do.
_SLICES_OF_A_SERIES = 24

# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]
# Called with the place of a study that cannot be used, the code of the error, and why.
Failed = Callable[[int, str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One labelled volume; nothing that is loaded is kept in memory.

    Parameters
    ----------
    load
        Called once for each extent that is fitted, and again if that was killed while it read.
    label
        Its class (objective `classification`).
    mask
        Returns its mask (objective `segmentation`); called after `load`.
    digest
        Returns what tells its pixels and mask from any others, such as the SHA-256 of files.
        Where each study has one, a fit that was killed can go on.
    """

    load: Callable[[], Volume]
    label: str = ""
    mask: Callable[[], Mask] | None = None
    digest: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Samples of one volume; arrays as large as the volume are memory-mapped on disk.

    Parameters
    ----------
    x, mask, shadow
        Stored values, foreground and perturbation so far, (samples, 1, [slices,] rows, columns).
    wanted
        Targets, see `objectives.Objective`; masks have the shape of `x`.
    near
        Where the plan lets voxels change, shape of `x`; None: in all of the foreground.
    stem
        What the names of its files begin with.
    through
        The user's preprocessing, if any.
    patches
        Those in which a surrogate sees the volume, by number; none: as a whole, or slice by slice.
    """

    stem: Path
    x: np.memmap
    mask: np.memmap
    shadow: np.memmap
    wanted: np.ndarray
    near: np.memmap | None
    slope: Tensor
    intercept: Tensor
    window: tuple[float, float]
    limits: Limits[Tensor]
    region: int | None
    through: Preprocessing | None = None
    patches: tuple[int, ...] = ()

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def looks(self) -> int:
        """How many things a surrogate sees of it, samples or the patches of a volume."""
        return len(self.patches or self)

    def part(self, which: slice) -> tuple[Tensor, Tensor, Tensor, Limits[Tensor]]:
        """Return stored values, foreground, shadow and limits of some samples."""
        x = torch.from_numpy(self.x[which].astype(np.float32))
        mask = torch.from_numpy(np.array(self.mask[which]))
        shadow = torch.from_numpy(self.shadow[which].astype(np.float32))
        budget = self.limits.budget[which]
        if self.near is not None:
            budget = budget * torch.from_numpy(self.near[which])
        return x, mask, shadow, self.limits.with_budget(budget)

    def targets(self, which: slice) -> Tensor:
        """Return the targets of some samples."""
        return torch.from_numpy(self.wanted[which].astype(np.int64))

    def seen(
        self, index: int, size: tuple[int, ...], *, plain: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return what a surrogate sees at one look, and its target on the same grid."""
        if self.patches:
            return patch_of(self, self.patches[index], size, plain=plain)
        which = slice(index, index + 1)
        x, _, shadow, _ = self.part(which)
        stored = x if plain else x + torch.round(shadow)
        mapping = self.slope[which], self.intercept[which]
        image = network_input(stored, *mapping, self.window, size, self.through)
        target = self.targets(which)
        return image, target if target.ndim <= 2 else network_target(target, size)

    def budget_seen(self, index: int) -> float:
        """Return the budget at one look in units of what a surrogate sees (0 to 1)."""
        index = 0 if self.patches else index
        low, high = self.window
        budget = self.limits.budget[index] * self.slope[index].abs()
        return float(budget.max()) / (high - low)


def read_samples(
    studies: Sequence[Study],
    classes: Sequence[str],
    plan: ProtectionPlan,
    extent: str,
    folder: Path,
    progress: Progress,
    failed: Failed,
) -> tuple[list[Sample], tuple[str, ...], int]:
    """Return the samples of every study that can be read, the classes, and how many cannot.

    Parameters
    ----------
    classes
        Of labels; empty: those that occur in the masks.
    folder
        Where arrays are kept.

    Raises
    ------
    NoForeground, NoLabel
        None can be read, or there is nothing in them to tell apart.
    """
    found: list[Sample] = []
    names: list[tuple[str, ...]] = []
    shown: set[frozenset[str]] = set()
    unfit: list[SalmDicomError] = []
    for index, study in enumerate(studies):
        progress(f"read ({extent})", index, len(studies))
        try:
            for number, (one, mask) in enumerate(_volumes(study)):
                if extent == "slice" or not (one.irregular or len(one.pixels.values) == 1):
                    stem = folder / f"{index:06d}-{number:03d}"
                    target = mask or labelled(study.label, classes, plan.objective)
                    found.append(_sample(one, target, plan, extent, stem))
                    names.append(mask.names if mask else ())
                    shown.add(mask.occurring if mask else names_of(study.label, plan.objective))
        except (InputError, PlanError) as error:
            failed(index, error.code, str(error))
            unfit.append(error)
    progress(f"read ({extent})", len(studies), len(studies))
    if not found:
        text = f"no labelled series can be used to fit a surrogate of {extent} extent"
        first = next(iter(unfit), NoForeground("none is a regular volume"))
        kind = NoLabel if isinstance(first, NoLabel) else NoForeground
        raise kind(f"{text}; the first: {first}")
    if plan.needs_masks:
        occurring = frozenset[str]().union(*shown)
        if not occurring:
            raise NoLabel("every mask is empty; at least one class must occur")
        classes = tuple(classes) or tuple(sorted(occurring))
        for sample, known in zip(found, names, strict=True):
            _number(sample, known, classes)
    elif len(shown) < 2:
        raise NoLabel(f"the series that suit {extent} extent have one label only; 2 are needed")
    return found, tuple(classes), len(unfit)


def _volumes(study: Study) -> Iterator[tuple[Volume, Mask | None]]:
    """Yield the volumes of a study, each with its part of the mask."""
    volume = study.load()
    mask = None if study.mask is None else study.mask()
    if mask is not None:
        check_shape(mask, volume)
    first = 0
    for one in volume.volumes():
        last = first + len(one.pixels.values)
        yield one, None if mask is None else mask.taken(slice(first, last))
        first = last


def _number(sample: Sample, names: Sequence[str], classes: Sequence[str]) -> None:
    """Write the masks of a sample by the numbers of all classes, in place of those of `names`."""
    places = [1 + classes.index(name) if name in classes else 0 for name in names]
    table = np.array([0, *places], dtype=np.uint16)
    for one in sample.wanted:
        one[...] = table[one]


def _sample(
    volume: Volume, target: NDArray[np.int64] | Mask, plan: ProtectionPlan, extent: str, stem: Path
) -> Sample:
    pixels = volume.pixels
    mask = foreground(pixels, volume.modality, volume.photometric)
    if not mask.any():
        raise NoForeground("no anatomy was found: the image is constant, air or padding")
    window = intensity_range(plan, volume, mask.__getitem__)
    budget = budgets(plan, volume, window)
    if pixels.room is not None:
        mask &= pixels.room >= budget[:, None, None]
    chosen = np.arange(len(mask))
    if extent == "slice":
        marked = target.values > 0 if isinstance(target, Mask) else None
        chosen = chosen_slices(mask, marked, _SLICES_OF_A_SERIES)
    x = samples(pixels.values[chosen], extent)
    low, high = pixels.extremes()

    def kept(kind: str, values: np.ndarray) -> np.memmap:
        return _on_disk(stem.with_suffix(f".{kind}.npy"), values)

    def arranged(kind: str, values: np.ndarray) -> np.memmap:
        return kept(kind, samples(values[chosen], extent))

    close = None
    if not isinstance(target, Mask):
        wanted: np.ndarray = np.repeat(target[None], len(x), axis=0)
    else:
        wanted = arranged("wanted", target.values.astype(np.uint16))
        if plan.mask != "gradient":
            close = arranged("near", near(plan, target.values, volume))
    found = Sample(
        stem=stem,
        x=kept("x", x),
        mask=arranged("mask", mask),
        shadow=kept("shadow-0", np.zeros(x.shape, np.float16)),
        wanted=wanted,
        near=close,
        slope=torch.from_numpy(per_slice(pixels.slope[chosen], extent)),
        intercept=torch.from_numpy(per_slice(pixels.intercept[chosen], extent)),
        window=window,
        limits=Limits(
            budget=torch.from_numpy(per_slice(budget[chosen], extent)),
            low=low,
            high=high,
            padding=pixels.padding,
        ),
        region=region_edge(plan, volume),
        through=Preprocessing.of(plan.preprocessing, volume.affine),
    )
    return replace(found, patches=patches_of(found, plan))


def _on_disk(path: Path, values: np.ndarray) -> np.memmap:
    np.save(path, values)
    mapped: np.memmap = np.load(path, mmap_mode="r+")
    return mapped
