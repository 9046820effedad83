"""Rounds: the surrogate phase and the noise phase of a fit, one after the other.

What a volume needs in a round is independent of all others: it is handed out as `Work`, to this
process or to many, and what it gives lies in a file. The surrogate phase is one process's: it
looks at `batches * batch_size` samples, where a noise phase takes `steps` gradients of every
sample. So the number of processes changes the time and not the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from salm_dicom.folder import atomic, working
from salm_dicom.learning import optimiser_of, reproducible, train
from salm_dicom.networks import NetworkSpec
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb.loss import asks_in_turn
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.apply import seed_of
from salm_dicom.protector.batches import Drawn, passes_of_training
from salm_dicom.protector.checkpoint import (
    Learner,
    Reached,
    finish,
    finished,
    trained_file,
    trained_weights,
)
from salm_dicom.protector.fresh import chosen, laid, teach
from salm_dicom.protector.sampled import Progress, Sample
from salm_dicom.protector.samples import slices_at_once
from salm_dicom.protector.spool import Spool, drop_arrays, opened, shadow_file
from salm_dicom.protector.surrogate import OnDevice, Surrogate, spec_of

T = TypeVar("T")
R = TypeVar("R")
_PATIENCE = 3


class Each(Protocol):
    """Does the same with each of many things, in this process or others: `map`, or like it."""

    def __call__(self, work: Callable[[T], R], parts: Iterable[T], /) -> Iterator[R]:
        """Yield what `work` makes of each part, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One volume in one round.

    Parameters
    ----------
    stem
        Of the files of its samples.
    rounds
        Noise phases that they have had.
    device
        Where the surrogate runs.
    plain
        Look at the source, not at what is protected.
    """

    stem: Path
    rounds: int
    plan: ProtectionPlan
    spec: NetworkSpec
    device: str
    plain: bool = False

    @property
    def places(self) -> tuple[Path, ...]:
        """What a worker must see."""
        return (self.stem.parent,)


def min_min(
    spool: Spool, plan: ProtectionPlan, extent: str, progress: Progress, device: str, each: Each
) -> tuple[Surrogate, dict[str, float]]:
    """Return the surrogate of one extent, and the report on it."""
    spec = spec_of(plan, extent, len(spool.classes))
    done = finished(spool.folder)
    if done is None:
        done = _weights_and_report(spool, plan, spec, extent, progress, device, each)
        finish(spool.folder, *done)
    drop_arrays(spool)
    weights, report = done
    return Surrogate(spec=spec, weights=weights), report


def _weights_and_report(
    spool: Spool,
    plan: ProtectionPlan,
    spec: NetworkSpec,
    extent: str,
    progress: Progress,
    device: str,
    each: Each,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    count = _looks(spool)
    if plan.is_fresh:
        spool = chosen(spool, plan, spec.size)
    learner = _beginner(plan, spec, device)
    if not learner.resume(spool.folder) and plan.is_fresh:
        learner.save(spool.folder)  # untrained ones are looked at first
    now = Reached.in_folder(spool.folder)
    work = partial(_work, spool, plan, spec, device)
    while not (now.rounds == plan.rounds or (now.waited == _PATIENCE and not plan.is_fresh)):
        shadows = _shadows(now.rounds, plan)
        for _ in each(perturb_samples, work(shadows - 1)) if shadows else ():
            pass
        progress(f"fit ({extent})", now.rounds, plan.rounds)
        if learner.rounds == now.rounds:
            _surrogate_phase(learner, spool, plan, spec, shadows)
            learner.save(spool.folder)
        now = now.after(error_of(each, spec, work(shadows)))
        now.save(spool.folder)
    progress(f"fit ({extent})", plan.rounds, plan.rounds)
    last = _shadows(now.rounds - 1, plan)
    # of one image and network
    each_look = spec.passes(plan.steps, in_turn=asks_in_turn(plan.eot))
    passes = learner.passes + last * each_look * _looks(spool)
    report = {
        f"{extent}_samples": float(count),
        f"{extent}_rounds": float(now.rounds),
        f"{extent}_error_on_protected": now.error,
        f"{extent}_error_on_source": error_of(each, spec, work(last, plain=True)),
        f"{extent}_passes_per_image": passes / count,
    }
    return trained_weights(trained_file(spool.folder)), report


def _looks(spool: Spool) -> int:
    return sum(looks for _, looks in spool.samples)


def _shadows(rounds: int, plan: ProtectionPlan) -> int:
    """Return how many noise phases come before a surrogate phase that so many came before."""
    if plan.build_method().label_shift:
        return 0
    return rounds + plan.is_fresh


def _beginner(plan: ProtectionPlan, spec: NetworkSpec, device: str) -> Learner:
    network = spec.build(plan.seed).to(device)
    return Learner(
        network=network,
        optimiser=optimiser_of(network),
        rng=torch.Generator().manual_seed(plan.seed),
    )


def _work(
    spool: Spool,
    plan: ProtectionPlan,
    spec: NetworkSpec,
    device: str,
    rounds: int,
    plain: bool = False,
) -> Iterator[Work]:
    """Yield a piece of work for each volume."""
    for stem, _ in spool.samples:
        yield Work(
            stem=(spool.folder / stem).absolute(),
            rounds=rounds,
            plan=plan,
            spec=spec,
            device=device,
            plain=plain,
        )


def _surrogate_phase(
    learner: Learner, spool: Spool, plan: ProtectionPlan, spec: NetworkSpec, shadows: int
) -> None:
    """Train the network for some batches on what is protected so far, or fresh ones."""
    device = _device(learner)
    if plan.is_fresh:
        on_others = laid(spool, plan, spec.size, shadows)
        learner.passes += teach(
            learner.network, on_others, plan, spec, learner.rounds, device, learner.rng
        )
        learner.rounds += 1
        return
    network, objective = OnDevice(learner.network, device), OBJECTIVES[plan.objective]
    batches = Drawn(
        sample=partial(spool.sample, rounds=shadows),
        places=[(one, i) for one, (_, count) in enumerate(spool.samples) for i in range(count)],
        plan=plan,
        size=spec.size,
        network=network,
    )
    train(network, objective, learner.optimiser, batches, plan.batches, learner.rng)
    learner.passes += passes_of_training(plan)
    learner.rounds += 1


def _device(learner: Learner) -> str:
    return str(next(learner.network.parameters()).device)


def perturb_samples(work: Work) -> None:
    """Advance the shadow of one volume's samples by one noise phase, unless that is done."""
    before, after = (shadow_file(work.stem, work.rounds + more) for more in (0, 1))
    with working(work.stem.parents[1]), reproducible():
        if not after.exists():
            shadow = _perturbed(opened(work.stem, work.rounds), work)
            with atomic(after) as stream:
                np.save(stream, shadow)
        before.unlink(missing_ok=True)


def _perturbed(sample: Sample, work: Work) -> np.ndarray:
    """Return the shadow of one volume's samples after one more noise phase."""
    method = work.plan.build_method(region=sample.region)
    surrogate = _surrogate(work)
    shadows: np.ndarray = np.empty_like(sample.shadow, subok=False)
    together = slices_at_once(sample.x.shape, work.spec.values) if sample.x.ndim == 4 else 1
    for first in range(0, len(sample), together):
        which = slice(first, first + together)
        x, mask, shadow, limits = sample.part(which)
        loss = surrogate.loss(
            sample.slope[which].numpy(),
            sample.intercept[which].numpy(),
            sample.window,
            sample.targets(which).numpy(),
            work.device,
            sample.through,
            by_patch=bool(sample.patches),
        )
        # no draw depends on which process does which volume
        place = f"noise/{sample.x.ndim}/{work.stem.name}/{first}/{work.rounds}"
        rng = torch.Generator().manual_seed(seed_of(work.plan.seed, place))
        start = None if work.plan.is_fresh else shadow
        shadows[which] = method(x, loss, mask, limits, rng, start).numpy()
    return shadows


def error_of(each: Each, spec: NetworkSpec, work: Iterable[Work]) -> float:
    """Return how wrong the surrogate is on the samples of all volumes, 0 to 1."""
    tallies = [torch.from_numpy(one) for one in each(tally, work)]
    return OBJECTIVES[spec.objective].error(torch.stack(tallies).sum(0))


def tally(work: Work) -> np.ndarray:
    """Return what the objective counts on the samples of one volume."""
    objective, network = OBJECTIVES[work.spec.objective], _surrogate(work).network(work.device)
    sample = opened(work.stem, work.rounds)
    with reproducible(), torch.no_grad():
        counts = []
        for index in range(sample.looks):
            image, target = sample.seen(index, work.spec.size, plain=work.plain)
            counts.append(objective.tally(network(image), target))
    return torch.stack(counts).sum(0).numpy(force=True)


def _surrogate(work: Work) -> Surrogate:
    """Return the surrogate as it was trained last, loaded once for all volumes."""
    file = trained_file(work.stem.parent)
    found = file.stat()
    return _loaded(file, found.st_ino, found.st_mtime_ns, work.spec)


@lru_cache(maxsize=1)
def _loaded(file: Path, inode: int, changed_ns: int, spec: NetworkSpec) -> Surrogate:
    return Surrogate(spec=spec, weights=trained_weights(file))
