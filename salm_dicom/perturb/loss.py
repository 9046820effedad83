"""The loss as the methods see it: stored values in, one number out; and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]


def gradient(loss: Loss, x: Tensor) -> Tensor:
    """Return d loss / d x, shape of x; works under `no_grad` and `inference_mode` too."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(loss(leaf), leaf)
    return slope
