"""Fit: train the surrogates of a protector on volumes with labels or masks, by sparse min-min.

    min over theta, u of  mean_i L(f_theta(N(s_i + round(u_i))), y_i),   u_i = 0 outside M_i

in rounds: a surrogate phase (batches of SGD on what is protected so far) and a noise phase (K
signed gradient steps for every sample). It ends after `plan.rounds`, or when three rounds have
not lowered the surrogate's error on what it was trained on, once it is right anywhere. That is
measured between the two phases: on the perturbation just made for it, it hardly ever errs. The
report also has its error on the source images: where that is small it has learned anatomy, and the
perturbation is no short way for a victim. Targeted methods have no noise phase; those without a
gradient need the names of the labels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from salm_dicom.errors import NoLabel
from salm_dicom.learning import network_input, one_thread, train
from salm_dicom.objectives import OBJECTIVES, NetworkSpec
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.apply import Protector
from salm_dicom.protector.clusters import clustered
from salm_dicom.protector.sampled import Failed, Progress, Sample, Study, read_samples
from salm_dicom.protector.samples import slices_at_once
from salm_dicom.protector.surrogate import OnDevice, Surrogate
from salm_dicom.protector.target import names_of

__all__ = ["Progress", "Study", "fit"]

_PATIENCE = 3
_LEARNING_RATE = 0.02


def fit(
    studies: Sequence[Study],
    plan: ProtectionPlan,
    workspace: Path,
    progress: Progress = lambda *_: None,
    failed: Failed = lambda *_: None,
    device: str = "cpu",
) -> Protector:
    """Return a protector whose surrogates were trained on the studies.

    Memory does not grow with the number of studies: samples lie in a temporary folder inside
    `workspace` and go when the fit ends.

    Parameters
    ----------
    failed
        Told of each study that cannot be used, once for each extent; the fit goes on without it.
    device
        Where the surrogates are trained, see `device.device_of`.

    Raises
    ------
    NoLabel
        There are not two different labels, so that nothing can be learned.
    NoForeground
        No study has any anatomy.
    """
    clusters = None
    if plan.label_free:
        studies, clusters = clustered(studies, plan, workspace, progress, failed)
    classes = _classes(studies, plan) if clusters is None else clusters.names
    if not plan.build_method().needs_gradient:
        return Protector(plan=plan, classes=classes, clusters=clusters)
    surrogates: dict[str, Surrogate] = {}
    report: dict[str, float] = {}
    extents = ("slice", "volume") if plan.extent == "volume" else ("slice",)
    for extent in extents:
        with TemporaryDirectory(dir=workspace, prefix="fit-") as folder, one_thread():
            found, classes, skipped = read_samples(
                studies, classes, plan, extent, Path(folder), progress, failed
            )
            report[f"{extent}_skipped_series"] = float(skipped)
            surrogates[extent] = _min_min(
                found, plan, extent, len(classes), progress, report, device
            )
    return Protector(
        plan=plan, classes=classes, surrogates=surrogates, clusters=clusters, report=report
    )


def _classes(studies: Sequence[Study], plan: ProtectionPlan) -> tuple[str, ...]:
    """Return the labels; none of masks, whose classes are known when they are read."""
    if plan.needs_masks:
        if any(study.mask is None for study in studies):
            raise NoLabel("objective segmentation needs a mask for each study: Study(mask=...)")
        return ()
    labels = {names_of(study.label, plan.objective) for study in studies}
    if len(labels) < 2:
        raise NoLabel(
            f"{len(studies)} labelled series with {len(labels)} different labels; a surrogate "
            "needs at least 2. Use --method random for a protection without labels"
        )
    return tuple(sorted(frozenset.union(*labels)))


def _min_min(
    found: Sequence[Sample],
    plan: ProtectionPlan,
    extent: str,
    classes: int,
    progress: Progress,
    report: dict[str, float],
    device: str,
) -> Surrogate:
    size = plan.slice_size if extent == "slice" else plan.volume_size
    spec = NetworkSpec(size=size, classes=classes, objective=plan.objective)
    objective = OBJECTIVES[plan.objective]
    trained = spec.build(plan.seed)
    network = OnDevice(trained, device)
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
        train(network, objective, optimiser, batches, plan.batches, rng)
        error = _error(network, found, spec)
        # a surrogate that still gets everything wrong has not begun to learn: no plateau
        best, waited = (error, 0) if error < best else (best, waited + (error < 1))
        frozen = network.eval().requires_grad_(False)
        for sample in found if min_min else ():
            _perturb_sample(sample, frozen, plan, spec, rng)
        network.requires_grad_(True)
        rounds += 1
    progress(f"fit ({extent})", plan.rounds, plan.rounds)
    passes = rounds * (plan.steps * min_min + plan.batches * plan.batch_size / len(places))
    report |= {
        f"{extent}_samples": float(len(places)),
        f"{extent}_rounds": float(rounds),
        f"{extent}_error_on_protected": error,
        f"{extent}_error_on_source": _error(network, found, spec, plain=True),
        f"{extent}_passes_per_image": passes,
    }
    weights = {name: value.detach().cpu().clone() for name, value in trained.state_dict().items()}
    return Surrogate(spec=spec, weights=weights)


def _batch(
    found: Sequence[Sample],
    places: Sequence[tuple[int, int]],
    plan: ProtectionPlan,
    size: tuple[int, ...],
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return what the surrogate sees of samples drawn at random, and their targets."""

    def draw(plain: bool, drawn: Sequence[int]) -> tuple[Tensor, Tensor]:
        at = (places[d] for d in drawn)
        seen = [found[one].seen(i, size, plain=plain) for one, i in at]
        images, targets = zip(*seen, strict=True)
        return torch.cat(images), torch.cat(targets)

    drawn = torch.randint(len(places), (plan.batch_size,), generator=rng).tolist()
    inputs, targets = draw(False, drawn)
    if plan.swap:
        others = torch.randint(len(places), (plan.batch_size,), generator=rng).tolist()
        swapped = (draw(True, others)[0] + inputs - draw(True, drawn)[0]).clamp(0, 1)
        lots = torch.rand((len(inputs), *[1] * (inputs.ndim - 1)), generator=rng)
        inputs = torch.where(lots < plan.swap, swapped, inputs)
    return inputs, targets


def _perturb_sample(
    sample: Sample,
    network: nn.Module,
    plan: ProtectionPlan,
    spec: NetworkSpec,
    rng: torch.Generator,
) -> None:
    """Advance the shadow of one volume's samples by one noise phase."""
    method = plan.build_method(region=sample.region)
    measure = OBJECTIVES[spec.objective].loss
    together = slices_at_once(sample.x.shape, spec.values) if sample.x.ndim == 4 else 1
    for first in range(0, len(sample), together):
        which = slice(first, first + together)
        x, mask, shadow, limits = sample.part(which)
        about = sample.slope[which], sample.intercept[which], sample.window, spec.size
        targets = sample.targets(which)

        def loss(stored: Tensor, about: Any = about, targets: Tensor = targets) -> Tensor:
            return measure(network(network_input(stored, *about)), targets)

        sample.shadow[which] = method(x, loss, mask, limits, rng, shadow).numpy()


def _error(
    network: nn.Module, found: Sequence[Sample], spec: NetworkSpec, *, plain: bool = False
) -> float:
    """Return how wrong the network is on all samples, protected or plain, 0 to 1."""
    objective = OBJECTIVES[spec.objective]
    network.eval()
    with torch.no_grad():
        tallies = []
        for sample in found:
            for index in range(len(sample)):
                image, target = sample.seen(index, spec.size, plain=plain)
                tallies.append(objective.tally(network(image), target))
    return objective.error(torch.stack(tallies).sum(0))
