"""Learning: what a network sees of stored values, training for some batches, reproducibly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.objectives import Objective
from salm_dicom.patches import OfPatch, Patches, summed

# Of modality values of one image, (1, 1, *spatial): what a network sees of them, in any size.
Through = Callable[[Tensor], Tensor]
# Returns a batch of network inputs (n, 1, *size) and their targets, drawn with the generator.
Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]
_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.02, 0.9, 5e-4


def network_input(
    stored: Tensor,
    slope: Tensor,
    intercept: Tensor,
    intensity_range: tuple[float, float],
    size: tuple[int, ...],
    through: Through | None = None,
) -> Tensor:
    """Return what a surrogate sees of stored values; differentiable in `stored`.

    N(s) = clip((slope * s + intercept - lo) / (hi - lo), 0, 1), resized to `size`.

    Parameters
    ----------
    stored
        (samples, 1, *spatial), any spatial size.
    slope, intercept
        Broadcast to `stored`.
    through
        In place of N: the user's own preprocessing, see `preprocessing`; resized to `size` as well.
    """
    if through is not None:
        values = stored * slope + intercept
        return torch.cat([_resized(through(one), size) for one in torch.split(values, 1)])
    return _resized(_scaled(stored, slope, intercept, intensity_range), size)


def network_whole(
    stored: Tensor,
    slope: Tensor,
    intercept: Tensor,
    intensity_range: tuple[float, float],
    through: Through | None = None,
) -> Tensor:
    """Return the same of one sample, (1, 1, *spatial), before it is resized."""
    if through is not None:
        return through(stored * slope + intercept)
    return _scaled(stored, slope, intercept, intensity_range)


def _resized(scaled: Tensor, size: tuple[int, ...]) -> Tensor:
    if tuple(scaled.shape[2:]) == size:
        return scaled
    if all(a >= b for a, b in zip(scaled.shape[2:], size, strict=True)):
        return functional.interpolate(scaled, size=size, mode="area")
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(scaled, size=size, mode=mode, align_corners=False)


def _scaled(
    stored: Tensor, slope: Tensor, intercept: Tensor, intensity_range: tuple[float, float]
) -> Tensor:
    low, high = intensity_range
    return torch.clamp((stored * slope + intercept - low) / (high - low), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class InputLoss:
    """The loss of stored values through what a network sees of them.

    Parameters
    ----------
    measure
        Of the network's input, a number.
    slope, intercept, intensity_range, size, through
        Of `network_input`.
    by_patch
        In place of `measure`: the network sees patches of a volume, see `patches.summed`.
    turns
        In place of this loss, one after the other, at every step but the first.
    """

    measure: Callable[[Tensor], Tensor]
    slope: Tensor
    intercept: Tensor
    intensity_range: tuple[float, float]
    size: tuple[int, ...]
    through: Through | None = None
    by_patch: OfPatch | None = None
    turns: tuple[InputLoss, ...] = ()

    def turn(self, step: int) -> InputLoss:
        """Return the loss of a step."""
        return self.turns[(step - 1) % len(self.turns)] if step and self.turns else self

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the loss."""
        if self.by_patch is None:
            return self.measure(self._seen(stored))
        mapping = self.slope, self.intercept, self.intensity_range
        whole = network_whole(stored, *mapping, self.through)
        return summed(whole, Patches(tuple(whole.shape[2:]), self.size), self.by_patch)

    def among(self, stored: Tensor, at: Tensor) -> Among | None:
        """Return the loss of the values at flat places of `stored`, (n,), where the others stay.

        As the area that the network sees as one value is a mean, what few voxels change of it is
        found without looking at the others: the same numbers but for their rounding. None where
        areas overlap, are not larger than voxels, or lie on another device, and where the user's
        preprocessing says what the network sees, or it sees patches.
        """
        if self.through is not None or self.by_patch is not None:
            return None
        shape = tuple(stored.shape[2:])
        sides = [*zip(shape, self.size, strict=True)]
        edges = [side // small for side, small in sides]
        if any(side % small for side, small in sides) or prod(edges) < 2 or not at.is_cpu:
            return None
        with torch.inference_mode(mode=False), torch.no_grad():
            where = np.unravel_index(at.numpy(), stored.shape)
            cells = [i // edge for i, edge in zip(where[2:], edges, strict=True)]
            cell = np.ravel_multi_index((*where[:2], *cells), (*stored.shape[:2], *self.size))
            into = torch.from_numpy(cell)
            places = tuple(map(torch.from_numpy, where))
            slope, intercept = (
                n.expand(stored.shape)[places] for n in (self.slope, self.intercept)
            )
            now = _scaled(stored[places], slope, intercept, self.intensity_range)
            rest = self._seen(stored).reshape(-1).index_add(0, into, now, alpha=-1 / prod(edges))
        return Among(self, slope, intercept, rest, into, prod(edges))

    def _seen(self, stored: Tensor) -> Tensor:
        return network_input(
            stored, self.slope, self.intercept, self.intensity_range, self.size, self.through
        )


@dataclass(frozen=True, slots=True)
class Among:
    """The loss of few values, where the others stay as they are; see `InputLoss.among`.

    Parameters
    ----------
    whole
        The loss of all of them.
    slope, intercept
        Of each value, (n,).
    rest
        What the network sees of the others, flat.
    into
        The place there of each value, (n,).
    area
        How many values the network sees as one.
    """

    whole: InputLoss
    slope: Tensor
    intercept: Tensor
    rest: Tensor
    into: Tensor
    area: int

    def turn(self, step: int) -> Among:
        """Return the loss of a step."""
        return replace(self, whole=self.whole.turn(step))

    def __call__(self, values: Tensor) -> Tensor:
        """Return the loss of values, (n,)."""
        whole = self.whole
        scaled = _scaled(values, self.slope, self.intercept, whole.intensity_range)
        seen = self.rest.index_add(0, self.into, scaled, alpha=1 / self.area)
        return whole.measure(seen.view(-1, 1, *whole.size))


def optimiser_of(network: nn.Module) -> torch.optim.Optimizer:
    """Return what surrogates learn by."""
    return torch.optim.SGD(
        network.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
    )


def train(
    network: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    count: int,
    rng: torch.Generator,
) -> float:
    """Take so many optimiser steps with the objective's loss; return the mean loss."""
    network.train()
    losses = []
    for _ in range(count):
        inputs, targets = augmented(*batches(rng), rng)
        losses.append(step(network, objective, optimiser, inputs, targets))
    network.eval()
    return sum(losses) / max(count, 1)


def step(
    network: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    inputs: Tensor,
    targets: Tensor,
) -> float:
    """Take one optimiser step; return the mean loss of the batch before it."""
    optimiser.zero_grad(set_to_none=True)
    loss = objective.loss(network(inputs), targets) / len(inputs)
    torch.autograd.backward(loss)
    optimiser.step()
    return float(loss.detach())


def augmented(inputs: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs shifted by up to 1/16 of their size and brightened by up to 10 %.

    Masks move with their images; they are on the grid of the inputs.
    """
    size = inputs.shape[-1]
    reach = max(size // 16, 1)
    shifts = torch.randint(-reach, reach + 1, (2,), generator=rng).tolist()
    gain = 0.9 + 0.2 * torch.rand((inputs.shape[0], *[1] * (inputs.ndim - 1)), generator=rng)
    moved = torch.roll(inputs, shifts, dims=(-2, -1)) * gain
    return moved, torch.roll(targets, shifts, dims=(-2, -1)) if targets.ndim > 2 else targets


def attacked(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    rng: torch.Generator,
    *,
    radius: Tensor,
    step: Tensor,
    steps: int,
) -> Tensor:
    """Return images changed by up to `radius`, within 0 to 1, so that the loss is large: PGD.

    Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.

    Parameters
    ----------
    loss
        Of the images together, a number.
    x
        (n, channels, *spatial), 0 to 1.
    radius, step
        Largest change, and change of one of so many `steps`; broadcast to `x`.
    """
    change = (2 * torch.rand(x.shape, generator=rng) - 1) * radius
    for _ in range(steps):
        seen = (x + change).clamp(0, 1).requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(seen), seen)
        change = (change + step * slope.sign()).clamp(-radius, radius)
    return (x + change).clamp(0, 1)


@contextmanager
def reproducible() -> Iterator[None]:
    """Run torch on one thread and cuDNN one way, as the order of sums decides the bytes.

    With gradients, whatever the caller's `no_grad` or `inference_mode`.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    one_way = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    try:
        with torch.inference_mode(mode=False), one_way:
            yield
    finally:
        torch.set_num_threads(before)


def checked_gradients() -> str:
    """Return torch's version after a gradient whose value is known.

    Raises
    ------
    RuntimeError
        It is wrong.
    """
    x = torch.ones(8, 8, requires_grad=True)
    (slope,) = torch.autograd.grad((x @ x).sum(), x)
    if not torch.equal(slope, torch.full((8, 8), 16.0)):
        raise RuntimeError("a gradient is wrong")
    return torch.__version__
