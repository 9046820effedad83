"""OBJECTIVES: what surrogates learn (a label, several, or a mask): networks, losses, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# What a surrogate multiplies in.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    precision
        A key of `PRECISIONS`.
    """

    size: tuple[int, ...]
    classes: int
    width: int = 16
    objective: str = "classification"
    precision: str = "float32"

    @property
    def outputs(self) -> int:
        """Channels of the output: in a mask, what is of no class is one more."""
        return self.classes + (self.objective == "segmentation")

    @property
    def values(self) -> int:
        """Numbers that the network gives for one sample."""
        each_place = math.prod(self.size) if self.objective == "segmentation" else 1
        return self.outputs * each_place

    @property
    def layout(self) -> torch.memory_format:
        """How its weights lie in memory where gradients of its input come soonest.

        Channels last gains nothing for masks, nor for volumes in float32 (benchmarks/layouts.py).
        """
        if self.objective == "segmentation":
            return torch.contiguous_format
        if len(self.size) == 2:
            return torch.channels_last
        halved = self.precision == "bfloat16"
        return torch.channels_last_3d if halved else torch.contiguous_format

    def build(self, seed: int) -> nn.Module:
        """Return a small network with random weights that depend on `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return OBJECTIVES[self.objective].network(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a surrogate is to say of an image, and how far it is from that.

    Targets are int64: classes, (n,); or for each label whether it holds, (n, labels), 0 or 1; or
    masks of classes, (n, 1, *spatial) of any size, 0 for none.

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


class AtLeast(nn.Module):
    """A network whose input is zero-padded, on all sides, to the smallest it can take."""

    def __init__(self, side: int, network: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output for images or volumes of one channel."""
        padding: list[int] = []
        for side in reversed(images.shape[2:]):
            missing = max(self.side - side, 0)
            padding += [missing // 2, missing - missing // 2]
        out: Tensor = self.network(functional.pad(images, padding))
        return out


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


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    found = functional.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none")
    return found.mean(1).sum()


def _wrong_by_label(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count for each label, where it does not hold and where it does, the wrong and all."""
    wrong = (outputs > 0) != targets.bool()
    sides = [targets == side for side in (0, 1)]
    return torch.stack(
        [torch.stack([(wrong & side).sum(0), side.sum(0)], dim=-1) for side in sides], dim=1
    )


def _balanced_error(tally: Tensor) -> float:
    """Return the mean over labels and both sides: always saying no is half wrong, not hardly."""
    wrong, count = tally[..., 0].double(), tally[..., 1].double()
    return float((wrong / count)[count > 0].mean())


def dice_and_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the DiceCE loss summed over samples; masks are brought to the grid of the outputs."""
    from monai.losses.dice import DiceCELoss

    masks = network_target(targets, tuple(outputs.shape[2:]))
    loss: Tensor = DiceCELoss(to_onehot_y=True, softmax=True)(outputs, masks)
    return loss * len(outputs)  # every sample has as many voxels


def overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each class twice the common voxels, and the sum of both, (classes, 2)."""
    masks = network_target(targets, tuple(outputs.shape[2:]))
    found = outputs.argmax(1)[:, None]
    pairs = [(found == one, masks == one) for one in range(1, outputs.shape[1])]
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


def network_target(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return masks of classes, (n, 1, *spatial), on a network's grid: that of the nearest voxel."""
    if tuple(masks.shape[2:]) == size:
        return masks
    return functional.interpolate(masks.float(), size=size, mode="nearest-exact").long()


OBJECTIVES: dict[str, Objective] = {
    "classification": Objective(
        network=_residual, loss=_cross_entropy, tally=_wrong, error=_share_wrong
    ),
    "multilabel": Objective(
        network=_residual,
        loss=_binary_cross_entropy,
        tally=_wrong_by_label,
        error=_balanced_error,
    ),
    "segmentation": Objective(
        network=_unet,
        loss=dice_and_cross_entropy,
        tally=overlaps,
        error=lambda tally: 1 - dice(tally),
    ),
}
