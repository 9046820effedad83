"""Surrogate networks: build one, train it for some batches, measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Returns a batch of network inputs (n, 1, *size) and labels (n,), drawn with the generator.
Batches = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """Settings of a surrogate.

    Parameters
    ----------
    size
        Rows and columns (slice extent), or slices, rows and columns (volume extent), that any
        input is resized to before the network sees it.
    classes
        Number of labels.
    width
        Channels of the first of four stages; each next one has twice as many.
    """

    size: tuple[int, ...]
    classes: int
    width: int = 16

    def build(self, seed: int) -> nn.Module:
        """Return a small residual network with random weights that depend on `seed` alone."""
        # half of this program's start-up time; methods without a surrogate do without it
        from monai.networks.nets.resnet import ResNet

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: nn.Module = ResNet(
                block="basic",
                layers=[1, 1, 1, 1],
                block_inplanes=[self.width << stage for stage in range(4)],
                spatial_dims=len(self.size),
                n_input_channels=1,
                conv1_t_size=5,
                conv1_t_stride=2,
                no_max_pool=True,
                num_classes=self.classes,
            )
        return network


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


def train(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    count: int,
    rng: torch.Generator,
) -> float:
    """Take `count` optimiser steps with cross-entropy; return the mean loss."""
    network.train()
    total = 0.0
    for _ in range(count):
        inputs, labels = batches(rng)
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(network(augmented(inputs, rng)), labels)
        torch.autograd.backward(loss)
        optimiser.step()
        total += float(loss.detach())
    network.eval()
    return total / max(count, 1)


def augmented(inputs: Tensor, rng: torch.Generator) -> Tensor:
    """Return inputs shifted by up to 1/16 of their size and brightened by up to 10 %."""
    size = inputs.shape[-1]
    reach = max(size // 16, 1)
    shifts = torch.randint(-reach, reach + 1, (2,), generator=rng).tolist()
    gain = 0.9 + 0.2 * torch.rand((inputs.shape[0], *[1] * (inputs.ndim - 1)), generator=rng)
    return torch.roll(inputs, shifts, dims=(-2, -1)) * gain


@torch.no_grad()
def error_rate(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of inputs whose most likely class is not their label."""
    network.eval()
    wrong = network(inputs).argmax(1) != labels
    return float(wrong.float().mean())


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: sums in another order would give other bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
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
