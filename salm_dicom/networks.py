"""Networks of surrogates: one for each objective, or several of unlike architectures together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    members
        How many networks; several are of three architectures in turn, and say what all say on
        average, see `Together`.
    """

    size: tuple[int, ...]
    classes: int
    width: int = 16
    objective: str = "classification"
    precision: str = "float32"
    members: int = 1

    @property
    def outputs(self) -> int:
        """Channels of the output: in a mask, what is of no class is one more."""
        return self.classes + (self.objective == "segmentation")

    @property
    def values(self) -> int:
        """Numbers of one sample that count for how many samples may be looked at together."""
        places = math.prod(self.size)
        found = self.outputs * (places if self.objective == "segmentation" else 1)
        return found if self.members == 1 else max(found, places * self.width)

    def passes(self, steps: int, *, in_turn: bool = True) -> int:
        """Return how many passes of one network so many gradient steps take for one sample.

        All networks are asked at the first step, and at every other, or in turn one of each
        architecture.
        """
        return self.members + (steps - 1) * (min(self.members, KINDS) if in_turn else self.members)

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
        """Return small networks with random weights that depend on `seed` alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.members == 1:
                return _unet(self) if self.objective == "segmentation" else _residual(self)
            return Together([self._member(place) for place in range(self.members)], self.objective)

    def build_member(self, place: int, seed: int) -> nn.Module:
        """Return an untrained network of the architecture that is one of several's."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._member(place)

    def _member(self, place: int) -> nn.Module:
        kinds = _MASK_KINDS if self.objective == "segmentation" else _LABEL_KINDS
        return kinds[place % len(kinds)](self)


class Together(nn.Module):
    """Networks that say what all of them say on average.

    Averaged are the logarithms of probabilities; for `multilabel` the logits of the labels.
    """

    def __init__(self, members: Sequence[nn.Module], objective: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.objective = objective

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs, shape of one network's."""
        said = [member(images) for member in self.members]
        if self.objective != "multilabel":
            said = [functional.log_softmax(one, dim=1) for one in said]
        return torch.stack(said).mean(0)

    def turns(self) -> list[Together]:
        """Return these networks in groups, each of one network of every architecture."""
        members = [*self.members]
        starts = range(0, len(members), KINDS)
        return [Together(members[first : first + KINDS], self.objective) for first in starts]


def _residual(spec: NetworkSpec) -> nn.Module:
    return _resnet(spec, conv1_t_size=5, conv1_t_stride=2, no_max_pool=True)


def _resnet(spec: NetworkSpec, **beginning: Any) -> nn.Module:
    # half of this program's start-up time; methods without a surrogate do without it
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[spec.width << stage for stage in range(4)],
        spatial_dims=len(spec.size),
        n_input_channels=1,
        num_classes=spec.outputs,
        **beginning,
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


def _fine(spec: NetworkSpec) -> nn.Module:
    """Return pairs of 3 x 3 convolutions and pooling: sees every pixel by itself."""
    conv, norm, pool = _layers(spec)
    layers: list[nn.Module] = []
    before = 1
    for stage in range(3):
        after = spec.width << stage
        for channels in (before, after):
            layers += [conv(channels, after, 3, padding=1), norm(after), nn.ReLU()]
        layers.append(pool(2, ceil_mode=True))
        before = after
    return nn.Sequential(*layers, Mean(), nn.Linear(before, spec.outputs))


def _stemmed(spec: NetworkSpec) -> nn.Module:
    """Return a ResNet that begins as those for large photographs do: 7 x 7, stride 2, pooling."""
    return _resnet(spec, conv1_t_size=7, conv1_t_stride=2, no_max_pool=False)


def _coarse(spec: NetworkSpec) -> nn.Module:
    """Return a few plain convolutions after the same beginning."""
    conv, norm, pool = _layers(spec)
    layers = [conv(1, spec.width, 7, 2, 3), norm(spec.width), nn.ReLU(), pool(3, 2, 1)]
    before = spec.width
    for stage in (1, 2):
        after = spec.width << stage
        layers += [conv(before, after, 3, padding=1), norm(after), nn.ReLU()]
        before = after
    return nn.Sequential(*layers, Mean(), nn.Linear(before, spec.outputs))


def _level(spec: NetworkSpec) -> nn.Module:
    """Return dilated 3 x 3 convolutions that never leave full resolution, for masks."""
    conv, norm, _ = _layers(spec)
    layers: list[nn.Module] = []
    before = 1
    for far in (1, 2, 4, 1):
        layers += [
            conv(before, spec.width, 3, padding=far, dilation=far), norm(spec.width), nn.ReLU()
        ]  # fmt: skip
        before = spec.width
    return nn.Sequential(*layers, conv(before, spec.outputs, 1))


def _shallow(spec: NetworkSpec) -> nn.Module:
    """Return a U-Net that halves twice, of 5 x 5 convolutions without residual units."""
    from monai.networks.nets.unet import UNet

    network = UNet(
        spatial_dims=len(spec.size),
        in_channels=1,
        out_channels=spec.outputs,
        channels=[spec.width << stage for stage in range(3)],
        strides=[2] * 2,
        kernel_size=5,
        up_kernel_size=3,
    )
    return Padded(4, network)


def _layers(
    spec: NetworkSpec,
) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Return convolution, batch normalisation and pooling for images or volumes."""
    if len(spec.size) == 2:
        return nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d
    return nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, values: Tensor) -> Tensor:
        """Return (n, channels) for (n, channels, *spatial)."""
        return values.flatten(2).mean(2)


# Architectures of several networks, in turn.
_LABEL_KINDS: tuple[Callable[[NetworkSpec], nn.Module], ...] = (_fine, _stemmed, _coarse)
_MASK_KINDS: tuple[Callable[[NetworkSpec], nn.Module], ...] = (_level, _unet, _shallow)
KINDS = len(_LABEL_KINDS)
# How many networks are asked together: of each architecture those of the last four rounds.
SEVERAL = 4 * KINDS
