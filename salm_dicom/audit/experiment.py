"""Experiment: the trials of an audit, planned beforehand and run one by one or side by side."""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salm_dicom.audit.countermeasures import COUNTERMEASURES, check_countermeasure
from salm_dicom.audit.dataset import Dataset, Side
from salm_dicom.audit.images import Images, Sets
from salm_dicom.audit.split import by_chance
from salm_dicom.audit.tasks import TASKS
from salm_dicom.audit.trial import BATCH, Trial, learn
from salm_dicom.errors import PlanError

# Without `epochs` a victim takes at least so many steps, and sees every image so often.
_STEPS, _EPOCHS = 450, 12
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an audit tries.

    Parameters
    ----------
    task
        A key of `TASKS`.
    victims, countermeasures
        Keys of the task's victims and of `COUNTERMEASURES`; `none` is always tried.
    seeds
        Victims of each kind.
    coverage
        Percent of the training patients that are protected, the others being clean; 100 is
        always tried, the others without countermeasure.
    epochs
        None: as many as make 450 batches, at least 12.
    weights
        Folder of the weights that victims begin with, see `backbones`; only for countermeasures
        that have a backbone.
    device
        Where victims learn, see `device_of`.
    """

    victims: tuple[str, ...]
    countermeasures: tuple[str, ...]
    seeds: int = 3
    coverage: tuple[int, ...] = (100,)
    epochs: int | None = None
    task: str = "classification"
    weights: Path | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check("task", (self.task,), tuple(TASKS))
        _check("victim", self.victims, tuple(TASKS[self.task].victims))
        _check("countermeasure", self.countermeasures, tuple(COUNTERMEASURES))
        for name in self.countermeasures:
            check_countermeasure(name, self.task, self.weights)
        if self.seeds < 1 or (self.epochs is not None and self.epochs < 1):
            raise PlanError("seeds and epochs need to be at least 1")
        wrong = [share for share in self.coverage if not 1 <= share <= 100]
        if wrong:
            raise PlanError(f"coverage {wrong[0]} is no percentage from 1 to 100")

    def epochs_of(self, images: int) -> int:
        """Return how often a victim sees each of so many training images."""
        return self.epochs or max(_EPOCHS, math.ceil(_STEPS / math.ceil(images / BATCH)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One trial.

    Parameters
    ----------
    coverage
        Percent of the training patients that are protected; 0 is the clean reference.
    group
        `all` training patients, or only those that the protector was fitted on (`early`) or not
        (`late`).
    """

    victim: str
    seed: int
    countermeasure: str = NONE
    coverage: int = 100
    group: str = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a trial.

    Parameters
    ----------
    evidence
        What the victim made of the clean test images, at the epoch it selected; see `Task`.
    evidence_by_clean
        The same at the epoch that it would select on clean validation images.
    evidence_protected
        As `evidence`, of the protected test images; clean references only.
    """

    spec: Spec
    trial: Trial
    evidence: Tensor
    evidence_by_clean: Tensor
    evidence_protected: Tensor | None
    epochs: int
    seconds: float


def planned(settings: Settings, data: Dataset) -> list[Spec]:
    """Return the trials of an audit, the clean reference before what is compared with it."""
    measures = dict.fromkeys((NONE, *settings.countermeasures))
    kinds = [(measure, share, "all") for measure in measures for share in (0, 100)]
    kinds += [(NONE, share, "all") for share in sorted({*settings.coverage} - {100}, reverse=True)]
    if not why_not_late(data):
        kinds += [(NONE, share, group) for group in ("early", "late") for share in (0, 100)]
    return [
        Spec(victim=victim, seed=seed, countermeasure=measure, coverage=share, group=group)
        for measure, share, group in kinds
        for victim in settings.victims
        for seed in range(settings.seeds)
    ]


def why_not_late(data: Dataset) -> str:
    """Return why late arrival cannot be measured; empty where it can."""
    for side in (data.train, data.validation):
        if side.late is None:
            return "nobody said which series the protector was fitted on (--fitted-labels)"
        for chosen, what in ((side.late, "late"), (~side.late, "fitted")):
            if not side.shows[chosen].any(0).all():
                return f"not every label has {what} patients to train and validate on"
    return ""


def run(data: Dataset, specs: Sequence[Spec], settings: Settings, jobs: int) -> Iterator[Found]:
    """Run the trials and yield what came of each, in any order; the same with more jobs."""
    if jobs == 1:
        yield from (conduct(data, spec, settings) for spec in specs)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(jobs, context, _prepare, (data, settings)) as pool:
        try:
            for future in as_completed([pool.submit(_conduct_held, spec) for spec in specs]):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def conduct(data: Dataset, spec: Spec, settings: Settings) -> Found:
    """Run one trial."""
    began = time.perf_counter()
    sets = sets_of(data, spec)
    epochs = settings.epochs_of(len(sets.train.labels))
    course = learn(
        spec.victim, sets, seed=spec.seed, epochs=epochs, countermeasure=spec.countermeasure,
        weights=settings.weights, device=settings.device,
    )  # fmt: skip
    protected = course.evidence_protected
    return Found(
        spec=spec,
        trial=course.trial(),
        evidence=course.evidence[course.selected],
        evidence_by_clean=course.evidence[course.clean_selected],
        evidence_protected=None if protected is None else protected[course.selected],
        epochs=epochs,
        seconds=time.perf_counter() - began,
    )


def sets_of(data: Dataset, spec: Spec) -> Sets:
    """Return what the victim of a trial learns from and is tested on."""
    train, validation = (_grouped(side, spec.group) for side in (data.train, data.validation))
    return Sets(
        train=_covered(train, spec),
        validation=_covered(validation, spec),
        clean_validation=validation.clean,
        test=data.test.clean,
        clean_train=train.clean,
        protected_test=None if spec.coverage else data.test.protected,
    )


def _grouped(side: Side, group: str) -> Side:
    if group == "all" or side.late is None:
        return side
    return side.part(side.late if group == "late" else ~side.late)


def _covered(side: Side, spec: Spec) -> Images:
    """Return images of which those of a share of the patients of each label are protected.

    A larger share protects the patients of a smaller one, and more.
    """
    if spec.coverage in (0, 100):
        return side.protected if spec.coverage else side.clean
    chosen: set[int] = set()
    dealt: set[int] = set()
    for shown in (*side.shows.T, torch.ones(len(side.patients), dtype=torch.bool)):
        there = set(side.patients[shown].tolist()) - dealt
        order = sorted(there, key=lambda patient: by_chance(f"coverage {spec.seed}", str(patient)))
        chosen.update(order[: round(spec.coverage / 100 * len(order))])
        dealt |= there
    is_protected = torch.tensor([patient in chosen for patient in side.patients.tolist()])
    where = is_protected.reshape(-1, *[1] * (side.clean.pixels.ndim - 1))
    pixels = torch.where(where, side.protected.pixels, side.clean.pixels)
    return Images(pixels=pixels, labels=side.clean.labels)


# What a worker process was given when it began.
_HELD: dict[str, tuple[Dataset, Settings]] = {}


def _prepare(data: Dataset, settings: Settings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _HELD["audit"] = (data, settings)


def _conduct_held(spec: Spec) -> Found:
    data, settings = _HELD["audit"]
    return conduct(data, spec, settings)


def _check(what: str, chosen: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in chosen:
        if name not in known:
            raise PlanError(f"{what} {name!r} is unknown; known are {', '.join(known)}")
    if not chosen:
        raise PlanError(f"no {what} was chosen; known are {', '.join(known)}")
