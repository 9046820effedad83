"""SALM against fresh networks, which never learn anatomy; tried on PneumoniaMNIST.

Run: .venv/bin/python benchmarks/fresh.py --epochs 12 --seeds 1 2
    --victims resnet-10 densenet-small convnet [--only NAME ...]
A fit begins with untrained networks of three architectures, no victim's. Every round perturbs some
images from zero against the last six, and teaches three new ones for 40 batches to tell labels by
the perturbation alone, as each lies on another image, of any label. What is shared is made from
zero, too, against the last six: sample by sample, signed steps along the gradient on the voxels
where it is largest. Scores and options are those of `ideas.py`; the test set is not looked at.
A row takes two to four minutes on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import ideas  # noqa: E402
from benchmarks.ideas import BUDGET, RHO, Idea, in_patches  # noqa: E402
from benchmarks.pneumonia import load  # noqa: E402
from salm_dicom.audit import Images  # noqa: E402
from salm_dicom.learning import reproducible  # noqa: E402

KEPT, IMAGES, BATCHES, BATCH = 6, 300, 40, 64
STEPS, STEP = 10, 0.2
RATE = 0.02
# Images that a gradient is taken of together.
TOGETHER = 100
Batch = tuple[Tensor, Tensor]


def residual(kernel: int, stride: int, *, pooled: bool) -> nn.Module:
    """Return a small ResNet; its beginning says how much of fine detail it sees."""
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[16, 32, 64, 128],
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=kernel,
        conv1_t_stride=stride,
        no_max_pool=not pooled,
        num_classes=2,
    )


def strided() -> nn.Module:
    """Return three strided convolutions with a linear layer over places."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 5, 2, 2), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 2))


KINDS: tuple[Callable[[], nn.Module], ...] = (
    partial(residual, 3, 1, pooled=False),
    partial(residual, 7, 2, pooled=True),
    strided,
)


class Together(nn.Module):
    """Networks whose logarithms of probabilities are averaged."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean of what all say, (n, classes)."""
        said = [functional.log_softmax(one(images), dim=1) for one in self.networks]
        return torch.stack(said).mean(0)


def changes(network: nn.Module, x: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    """Return what lowers the loss of each image on the voxels where its gradient is largest.

    Parameters
    ----------
    x
        Images, (n, 1, rows, columns), 0 to 1.
    inside
        Where a change is allowed, shape of the images.
    """
    parts = torch.split(x, TOGETHER), torch.split(labels, TOGETHER), torch.split(inside, TOGETHER)
    return torch.cat([_changes(network, *part) for part in zip(*parts, strict=True)])


def _changes(network: nn.Module, x: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    budget, change, mask = BUDGET / 255, torch.zeros_like(x), None
    for _ in range(STEPS):
        seen = (x + change).clamp(0, 1).requires_grad_(True)
        loss = functional.cross_entropy(network(seen), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, seen)
        if mask is None:
            mask = in_patches(slope, inside, 1, RHO)
        moved = (change - STEP * budget * slope.sign()).clamp(-budget, budget)
        change = torch.where(mask, (x + moved).clamp(0, 1) - x, 0.0)
    return change


def drawn(x: Tensor, change: Tensor, labels: Tensor, rng: torch.Generator, *, blind: bool) -> Batch:
    """Return changed images and their labels.

    Parameters
    ----------
    change
        Of the first images of `x`; `labels` has one for each.
    blind
        A change lies on an image of any label, so that only it tells which one is meant.
    """
    which = torch.randint(len(change), (BATCH,), generator=rng)
    on = torch.randint(len(x), (BATCH,), generator=rng) if blind else which
    return (x[on] + change[which]).clamp(0, 1), labels[which]


@cache
def fitted(seed: int, rounds: int, blind: bool) -> nn.Module:
    """Return the last networks of a fit, which takes part of the early images."""
    data = load().early
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    x, labels = data.pixels[order], data.labels[order[:IMAGES]]
    inside = torch.from_numpy(ideas.foreground(data))[order[:IMAGES]]
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), reproducible():
        torch.manual_seed(seed)
        networks = [kind().eval() for kind in KINDS]
        for _ in range(rounds):
            change = changes(Together(networks), x[:IMAGES], labels, inside)
            for kind in KINDS:
                network = kind()
                taught(network, partial(drawn, x, change, labels, rng, blind=blind))
                networks.append(network)
            networks = networks[-KEPT:]
    return Together(networks).eval().requires_grad_(False)


def taught(network: nn.Module, batch: Callable[[], Batch]) -> None:
    """Train a network for a few batches; `learning.train` would shift them."""
    network.train()
    optimiser = torch.optim.SGD(network.parameters(), RATE, momentum=0.9, weight_decay=5e-4)
    for _ in range(BATCHES):
        seen, labels = batch()
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(seen), labels))
        optimiser.step()
    network.eval()


def fresh(
    images: Images,
    inside: np.ndarray,
    _: int,
    *,
    fit: int = 0,
    rounds: int = 6,
    blind: bool = True,
    without: int | None = None,
) -> np.ndarray:
    """Return the changes of images against the networks of a fit.

    Parameters
    ----------
    blind
        Networks of the fit cannot learn anatomy.
    without
        A label whose images stay as they are.
    """
    network = fitted(fit, rounds, blind)
    allowed = torch.from_numpy(inside)
    shadow = changes(network, images.pixels, images.labels, allowed).numpy() * 255
    if without is not None:
        shadow[images.labels.numpy() == without] = 0
    return shadow


def rows() -> dict[str, Idea]:
    """Return every idea by name."""
    out: dict[str, Idea] = {"untrained networks": partial(fresh, rounds=0)}
    for fit in range(4):
        out[f"fresh networks, fit {fit}"] = partial(fresh, fit=fit)
        out[f"with anatomy, fit {fit}"] = partial(fresh, fit=fit, blind=False)
        for label in (0, 1):
            name = f"fresh networks, fit {fit}, label {label} without"
            out[name] = partial(fresh, fit=fit, without=label)
    return out


if __name__ == "__main__":
    ideas.main(rows(), "fresh.json", balanced=rows())
