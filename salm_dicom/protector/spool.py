"""Spool: the samples that a fit has read, on disk; a fit that was killed finds them again."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salm_dicom.folder import flush, write_whole
from salm_dicom.perturb import Limits
from salm_dicom.preprocessing import Preprocessing
from salm_dicom.protector.sampled import Sample
from salm_dicom.protector.tensors import read_tensors, tensor_file

# A study that cannot be used: place among all, code and reason.
Unfit = tuple[int, str, str]
_SPOOL = "samples.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spool:
    """What was read for one extent.

    Parameters
    ----------
    folder
        Where it lies.
    samples
        Of each volume: what the names of its files begin with, and how many a surrogate sees.
    classes
        Labels, or classes of masks, in the order of the surrogate's outputs.
    unfit
        Studies that cannot be used.
    """

    folder: Path
    samples: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]
    unfit: tuple[Unfit, ...]

    def sample(self, number: int, rounds: int) -> Sample:
        """Return the samples of one volume after so many noise phases."""
        return opened(self.folder / self.samples[number][0], rounds)

    def label(self, number: int) -> Hashable:
        """Return what tells the labels of volumes apart; nothing of masks."""
        tensors, _ = read_tensors(self.folder / f"{self.samples[number][0]}.about.safetensors")
        return str(tensors["wanted"][0].tolist()) if "wanted" in tensors else ""


def spooled(
    found: Sequence[Sample],
    classes: tuple[str, ...],
    unfit: Sequence[Unfit],
    folder: Path,
) -> Spool:
    """Return samples whose arrays lie in `folder` as a spool that survives a kill."""
    for one in found:
        _write_about(one)
    for path in folder.iterdir():
        path.chmod(0o600)
        flush(path)
    spool = Spool(
        folder=folder,
        samples=tuple((one.stem.name, one.looks) for one in found),
        classes=classes,
        unfit=tuple(unfit),
    )
    content = {"samples": spool.samples, "classes": classes, "unfit": spool.unfit}
    write_whole(folder / _SPOOL, json.dumps(content).encode())
    return spool


def spool_in(folder: Path) -> Spool | None:
    """Return what was read before, if all of it was."""
    if not (folder / _SPOOL).exists():
        return None
    content = json.loads((folder / _SPOOL).read_text())
    return Spool(
        folder=folder,
        samples=tuple((str(stem), int(count)) for stem, count in content["samples"]),
        classes=tuple(content["classes"]),
        unfit=tuple((int(place), str(code), str(why)) for place, code, why in content["unfit"]),
    )


def shadow_file(stem: Path, rounds: int) -> Path:
    """Return the file of the perturbation after so many noise phases."""
    return stem.with_suffix(f".shadow-{rounds}.npy")


def drop_arrays(spool: Spool) -> None:
    """Remove the samples; what they were stays known."""
    for path in spool.folder.glob("*.npy"):
        path.unlink()


def _write_about(one: Sample) -> None:
    tensors = {"slope": one.slope, "intercept": one.intercept, "budget": one.limits.budget}
    if not isinstance(one.wanted, np.memmap):
        tensors["wanted"] = torch.from_numpy(one.wanted)
    if one.through is not None:
        tensors["affine"] = torch.from_numpy(one.through.affine)
    about = {
        "patches": one.patches,
        "preprocessing": "" if one.through is None else one.through.text,
        "window": one.window,
        "low": one.limits.low,
        "high": one.limits.high,
        "padding": one.limits.padding,
        "region": one.region,
        "is_near": one.near is not None,
    }
    one.stem.with_suffix(".about.safetensors").write_bytes(tensor_file(tensors, about))


def opened(stem: Path, rounds: int) -> Sample:
    """Return the samples of one volume after so many noise phases, from their files."""
    tensors, about = read_tensors(stem.with_suffix(".about.safetensors"))

    def mapped(kind: str) -> Any:
        return np.load(stem.with_suffix(f".{kind}.npy"), mmap_mode="c")

    low, high = about["window"]
    return Sample(
        stem=stem,
        x=mapped("x"),
        mask=mapped("mask"),
        shadow=np.load(shadow_file(stem, rounds), mmap_mode="c"),
        wanted=tensors["wanted"].numpy() if "wanted" in tensors else mapped("wanted"),
        near=mapped("near") if about["is_near"] else None,
        slope=tensors["slope"],
        intercept=tensors["intercept"],
        window=(low, high),
        limits=Limits(
            budget=tensors["budget"],
            low=about["low"],
            high=about["high"],
            padding=None if about["padding"] is None else tuple(about["padding"]),
        ),
        region=about["region"],
        patches=tuple(about["patches"]),
        through=Preprocessing.of(
            about["preprocessing"], tensors["affine"].numpy() if "affine" in tensors else np.eye(4)
        ),
    )
