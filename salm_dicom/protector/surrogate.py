"""Surrogate: a trained network that stands for the unknown model of whoever trains on the data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from salm_dicom.learning import InputLoss, Through
from salm_dicom.networks import PRECISIONS, SEVERAL, NetworkSpec, Together
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.plan import ProtectionPlan


class OnDevice(nn.Module):
    """A network on a device, for inputs from the CPU.

    Inputs and outputs go over and back on the network's own small grid. Masks, steps and rounding
    stay on the CPU, so only the network's sums can differ between devices.

    Parameters
    ----------
    network
        Moved there.
    device
        As `device_of` gives it.
    precision
        A key of `PRECISIONS`: what it multiplies in; outputs are float32.
    """

    def __init__(self, network: nn.Module, device: str, precision: str = "float32") -> None:
        super().__init__()
        self.network = network.to(device)
        self.device = device
        self.dtype = PRECISIONS[precision]

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs, on the device of the images."""
        with self._precision():
            found: Tensor = self.network(images.to(self.device))
        return found.float().to(images.device)

    def _precision(self) -> AbstractContextManager[object]:
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, self.dtype)


def spec_of(plan: ProtectionPlan, extent: str, classes: int) -> NetworkSpec:
    """Return the settings of a plan's surrogate for samples of one extent."""
    return NetworkSpec(
        size=plan.slice_size if extent == "slice" else plan.volume_size,
        classes=classes,
        objective=plan.objective,
        precision=plan.precision,
        members=SEVERAL if plan.is_fresh else 1,
    )


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """Return the network after its weights for places were laid out in memory like this."""
    for weights in network.parameters():
        if weights.ndim > 3:
            weights.data = weights.data.contiguous(memory_format=layout)
    return network


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A network's settings and weights."""

    spec: NetworkSpec
    weights: Mapping[str, Tensor]

    @cached_property
    def digest(self) -> tuple[list[int], int, str]:
        """Input size, width and SHA-256 of the weights, which tell one surrogate from another."""
        weights = hashlib.sha256(self.to_bytes()).hexdigest()
        return list(self.spec.size), self.spec.width, weights

    def to_bytes(self) -> bytes:
        """Return the weights as a safetensors file."""
        return save_tensors(dict(self.weights))

    @cached_property
    def _networks(self) -> dict[str, tuple[nn.Module, ...]]:
        return {}

    def network(self, device: str = "cpu") -> nn.Module:
        """Return the network with these weights, frozen, in evaluation mode, on a device."""
        return self._on(device)[0]

    def _on(self, device: str) -> tuple[nn.Module, ...]:
        """Return the network, and the parts of it that are asked in turn."""
        if device not in self._networks:
            network = self.spec.build(seed=0)
            network.load_state_dict(dict(self.weights))
            laid_out = _laid_out(network, self.spec.layout)
            turns = laid_out.turns() if isinstance(laid_out, Together) else []
            self._networks[device] = tuple(
                OnDevice(one, device, self.spec.precision).eval().requires_grad_(False)
                for one in (laid_out, *turns)
            )
        return self._networks[device]

    def loss(
        self,
        slope: NDArray[Any],
        intercept: NDArray[Any],
        window: tuple[float, float],
        wanted: NDArray[np.int64],
        device: str = "cpu",
        through: Through | None = None,
        *,
        by_patch: bool = False,
    ) -> InputLoss:
        """Return the objective's summed loss, at stored values, of showing what is wanted.

        Parameters
        ----------
        slope, intercept
            To modality values; broadcast to the stored values.
        window
            Modality values that map to [0, 1].
        wanted
            Target of each sample, see `objectives.Objective`.
        device
            Where the network runs.
        through, by_patch
            See `network_input` and `InputLoss`.
        """
        targets, objective = torch.from_numpy(wanted), OBJECTIVES[self.spec.objective]
        mapping = torch.from_numpy(slope), torch.from_numpy(intercept), window

        def of(network: nn.Module, turns: tuple[InputLoss, ...] = ()) -> InputLoss:
            def measure(images: Tensor, cut: Callable[[Tensor], Tensor] | None = None) -> Tensor:
                mine = targets if cut is None or targets.ndim < 3 else cut(targets)
                return objective.loss(network(images), mine)

            by = measure if by_patch else None
            return InputLoss(measure, *mapping, self.spec.size, through, by, turns)

        all_of_them, *parts = self._on(device)
        return of(all_of_them, tuple(map(of, parts)))


def from_bytes(weights: bytes, spec: NetworkSpec) -> Surrogate:
    """Return the surrogate whose `to_bytes` gave `weights`, of as many networks as there are.

    Raises
    ------
    SafetensorError
    """
    found = load_tensors(weights)
    places = {name.split(".")[1] for name in found if name.startswith("members.")}
    return Surrogate(spec=replace(spec, members=len(places) or 1), weights=found)
