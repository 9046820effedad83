"""Surrogate: a trained network that stands for the unknown model of whoever trains on the data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.learning import NetworkSpec, network_input
from salm_dicom.perturb.loss import Loss


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
    def network(self) -> nn.Module:
        """The network with these weights, frozen, in evaluation mode."""
        network = self.spec.build(seed=0)
        network.load_state_dict(dict(self.weights))
        return network.eval().requires_grad_(False)

    def loss(
        self,
        slope: NDArray[Any],
        intercept: NDArray[Any],
        window: tuple[float, float],
        wanted: int,
    ) -> Loss:
        """Return the summed cross-entropy, at stored values, of showing the label `wanted`.

        Parameters
        ----------
        slope, intercept
            To modality values; broadcast to the stored values.
        window
            Modality values that map to [0, 1].
        """
        network, size = self.network, self.spec.size
        a, b = torch.from_numpy(slope), torch.from_numpy(intercept)

        def loss(stored: Tensor) -> Tensor:
            logits = network(network_input(stored, a, b, window, size))
            labels = torch.full((len(logits),), wanted)
            return functional.cross_entropy(logits, labels, reduction="sum")

        return loss


def from_bytes(weights: bytes, *, size: tuple[int, ...], classes: int, width: int) -> Surrogate:
    """Return the surrogate whose `to_bytes` gave `weights`.

    Raises
    ------
    SafetensorError
    """
    spec = NetworkSpec(size=size, classes=classes, width=width)
    return Surrogate(spec=spec, weights=load_tensors(weights))
