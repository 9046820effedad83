"""The loss as the methods see it: stored values in, one number out; and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


@runtime_checkable
class SparseLoss(Protocol):
    """A loss that is found sooner where most values stay as they are."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the loss at x."""

    def among(self, x: Tensor, at: Tensor) -> Loss | None:
        """Return the loss of the values at flat places of x, (n,), where the others stay.

        None where that is not quicker.
        """


@runtime_checkable
class LossInTurn(Protocol):
    """A loss of several networks, of which some are asked at each step."""

    def turn(self, step: int) -> Loss:
        """Return the loss of those whose turn it is; all of them at the first step, 0."""


def of_turn(loss: Loss, step: int) -> Loss:
    """Return the loss that is to be followed at a step."""
    return loss.turn(step) if isinstance(loss, LossInTurn) else loss


def asks_in_turn(eot: Sequence[str]) -> bool:
    """Return whether some of several networks are asked at each step, and not all.

    With random transforms all are: few of them, and one draw, say too little.
    """
    return not eot


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """Return d loss / d x, shape of x; works under `no_grad` and `inference_mode` too."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(leaf), leaf)
    return slope
