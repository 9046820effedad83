"""Surrogate networks and their objectives: build one, train it for some batches, measure it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Returns a batch of network inputs (n, 1, *size) and their targets, drawn with the generator.
Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]
# A network for segmentation halves its input so often.
_HALVED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Settings of a surrogate.

    Parameters
    ----------
    size
        Rows and columns (slice extent), or slices, rows and columns (volume extent), that any
        input is resized to before the network sees it.
    classes
        Number of labels, or of classes in masks.
    width
        Channels of the first of four stages; each next one has twice as many.
    objective
        A key of `OBJECTIVES`.
    """

    size: tuple[int, ...]
    classes: int
    width: int = 16
    objective: str = "classification"

    @property
    def outputs(self) -> int:
        """Channels of the output: in a mask, what is of no class is one more."""
        return self.classes + (self.objective == "segmentation")

    @property
    def values(self) -> int:
        """Numbers that the network gives for one sample."""
        each_place = math.prod(self.size) if self.objective == "segmentation" else 1
        return self.outputs * each_place

    def build(self, seed: int) -> nn.Module:
        """Return a small network with random weights that depend on `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return OBJECTIVES[self.objective].network(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a surrogate is to say of an image, and how far it is from that.

    Targets are classes, (n,), or masks of classes, (n, 1, *spatial) of any size, 0 for none; int64.

    Parameters
    ----------
    network
        Builds an untrained one.
    loss
        Of outputs and targets, summed over samples.
    tally
        Counts of outputs and targets; counts of several batches add up.
    error
        What all counts mean, 0 (always right) to 1.
    """

    network: Callable[[NetworkSpec], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    tally: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor], float]


def _residual(spec: NetworkSpec) -> nn.Module:
    # half of this program's start-up time; methods without a surrogate do without it
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[spec.width << stage for stage in range(4)],
        spatial_dims=len(spec.size),
        n_input_channels=1,
        conv1_t_size=5,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=spec.outputs,
    )


def _unet(spec: NetworkSpec) -> nn.Module:
    from monai.networks.nets.unet import UNet

    network = UNet(
        spatial_dims=len(spec.size),
        in_channels=1,
        out_channels=spec.outputs,
        channels=[spec.width << stage for stage in range(_HALVED + 1)],
        strides=[2] * _HALVED,
        num_res_units=1,
    )
    return Padded(1 << _HALVED, network)


class Padded(nn.Module):
    """A network for segmentation whose input is zero-padded to what it can halve, and cut back.

    Parameters
    ----------
    multiple
        Each edge of the padded input is a multiple of this.
    """

    def __init__(self, multiple: int, network: nn.Module) -> None:
        super().__init__()
        self.multiple = multiple
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs, (n, outputs, *spatial), for images (n, 1, *spatial)."""
        size = images.shape[2:]
        padding = [edge for side in reversed(size) for edge in (0, -side % self.multiple)]
        out: Tensor = self.network(functional.pad(images, padding))
        for axis, side in enumerate(size, start=2):
            out = out.narrow(axis, 0, side)
        return out


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")


def _wrong(outputs: Tensor, targets: Tensor) -> Tensor:
    wrong = outputs.argmax(1) != targets
    return torch.stack([wrong.sum(), torch.tensor(len(wrong))])


def _share_wrong(tally: Tensor) -> float:
    return float(tally[0]) / float(tally[1])


def dice_and_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the DiceCE loss summed over samples; masks are brought to the grid of the outputs."""
    from monai.losses.dice import DiceCELoss

    masks = network_target(targets, tuple(outputs.shape[2:]))
    loss: Tensor = DiceCELoss(to_onehot_y=True, softmax=True)(outputs, masks)
    return loss * len(outputs)  # every sample has as many voxels


def overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each class twice the common voxels, and the sum of both, (classes, 2)."""
    masks = network_target(targets, tuple(outputs.shape[2:]))
    return overlaps_of(outputs.argmax(1)[:, None], masks, outputs.shape[1] - 1)


def overlaps_of(found: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Return the same of two masks of one shape."""
    pairs = [(found == one, masks == one) for one in range(1, classes + 1)]
    counts = [torch.stack([2 * (a & b).sum(), a.sum() + b.sum()]) for a, b in pairs]
    return torch.stack(counts).double()


def dice(tally: Tensor) -> float:
    """Return the mean Dice of all classes that occur, 0 to 1; 1 where none occurs or is found.

    Parameters
    ----------
    tally
        As `overlaps` counts: the voxels of all samples are taken together.
    """
    occurs = tally[:, 1] > 0
    return float((tally[occurs, 0] / tally[occurs, 1]).mean()) if occurs.any() else 1.0


OBJECTIVES: dict[str, Objective] = {
    "classification": Objective(
        network=_residual, loss=_cross_entropy, tally=_wrong, error=_share_wrong
    ),
    "segmentation": Objective(
        network=_unet,
        loss=dice_and_cross_entropy,
        tally=overlaps,
        error=lambda tally: 1 - dice(tally),
    ),
}


def network_input(
    stored: Tensor,
    slope: Tensor,
    intercept: Tensor,
    intensity_range: tuple[float, float],
    size: tuple[int, ...],
) -> Tensor:
    """Return what a surrogate sees of stored values; differentiable in `stored`.

    N(s) = clip((slope * s + intercept - lo) / (hi - lo), 0, 1), resized to `size`.

    Parameters
    ----------
    stored
        (samples, 1, *spatial), any spatial size.
    slope, intercept
        Broadcast to `stored`.
    """
    low, high = intensity_range
    scaled = torch.clamp((stored * slope + intercept - low) / (high - low), 0.0, 1.0)
    if tuple(scaled.shape[2:]) == size:
        return scaled
    if all(a >= b for a, b in zip(scaled.shape[2:], size, strict=True)):
        return functional.interpolate(scaled, size=size, mode="area")
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return functional.interpolate(scaled, size=size, mode=mode, align_corners=False)


def network_target(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return masks of classes, (n, 1, *spatial), on a network's grid: that of the nearest voxel."""
    if tuple(masks.shape[2:]) == size:
        return masks
    return functional.interpolate(masks.float(), size=size, mode="nearest-exact").long()


def train(
    network: nn.Module,
    objective: Objective,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    count: int,
    rng: torch.Generator,
) -> float:
    """Take `count` optimiser steps with the objective's loss; return the mean loss."""
    network.train()
    total = 0.0
    for _ in range(count):
        inputs, targets = augmented(*batches(rng), rng)
        optimiser.zero_grad(set_to_none=True)
        loss = objective.loss(network(inputs), targets) / len(inputs)
        torch.autograd.backward(loss)
        optimiser.step()
        total += float(loss.detach())
    network.eval()
    return total / max(count, 1)


def augmented(inputs: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return inputs shifted by up to 1/16 of their size and brightened by up to 10 %.

    Masks move with their images; they are on the grid of the inputs.
    """
    size = inputs.shape[-1]
    reach = max(size // 16, 1)
    shifts = torch.randint(-reach, reach + 1, (2,), generator=rng).tolist()
    gain = 0.9 + 0.2 * torch.rand((inputs.shape[0], *[1] * (inputs.ndim - 1)), generator=rng)
    moved = torch.roll(inputs, shifts, dims=(-2, -1)) * gain
    return moved, torch.roll(targets, shifts, dims=(-2, -1)) if targets.ndim > 1 else targets


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, cuDNN one way: the order of sums decides the bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def reproducible() -> Iterator[None]:
    """Run torch on one thread, and with gradients even inside a caller's `inference_mode`."""
    with torch.inference_mode(mode=False), one_thread():
        yield


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
