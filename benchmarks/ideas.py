"""Ideas for a stronger protection, tried on PneumoniaMNIST and scored on clean validation images.

Run: .venv/bin/python benchmarks/ideas.py [--only NAME ...] [--measures NAME ...] [--epochs N]
    [--victims NAME ...] [--seeds N ...]
Every idea has the budget of `method.py`: 8/255 on 20 % of the foreground, sums of 0. Two victims
that are no architecture of a surrogate train for a few epochs; the test set is not looked at.
An idea takes ten seconds to two minutes on one core. What holds here goes to `method.py`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import method  # noqa: E402
from benchmarks.measured import write_results  # noqa: E402
from benchmarks.pneumonia import CLASSES, load, volumes  # noqa: E402
from salm_dicom.audit import Images, normalised_protection, trial  # noqa: E402
from salm_dicom.foreground import outline  # noqa: E402
from salm_dicom.learning import train  # noqa: E402
from salm_dicom.networks import NetworkSpec  # noqa: E402
from salm_dicom.objectives import OBJECTIVES  # noqa: E402
from salm_dicom.perturb import Limits, quota, to_integers  # noqa: E402
from salm_dicom.perturb.pairs import top_pairs  # noqa: E402
from salm_dicom.perturb.robust import blur, half_and_back  # noqa: E402
from salm_dicom.protector import Protector  # noqa: E402

BUDGET, RHO, REGION, SIDE = 8.0, 0.2, 10, 28
LIMITS = Limits(budget=np.full((1, 1, 1, 1), BUDGET, np.float32), low=0, high=255)
VICTIMS = ("densenet-small", "convnet")
ROW, COLUMN = np.mgrid[:SIDE, :SIDE]

# Balanced in every region, as the package does it for methods that follow a gradient.
BY_GRADIENT = (
    "salm", "hybrid", "bank", "generator",
    "targeted, 1 surrogate", "targeted, 3 surrogates", "texture and targeted", "learned class-wise",
    "sample-wise texture", "sample-wise texture, central",
    "salient class-wise", "salient class-wise, small patches", "salient class-wise, faint noise",
    "salient class-wise, start 1", "salient class-wise, start 2",
    "salient class-wise, best of 0-2", "salient class-wise, best of 3-5",
)  # fmt: skip

# Given images, their foreground and a seed, returns the shadow of a perturbation.
Idea = Callable[[Images, np.ndarray, int], np.ndarray]


def stored(images: Images) -> np.ndarray:
    """Return the 8-bit values of images."""
    return (images.pixels * 255).round().numpy().astype(np.int16)


def foreground(images: Images) -> np.ndarray:
    """Return where a change is allowed, shape of the images."""
    masks = [
        outline(volume.pixels, volume.modality, volume.photometric).at(index)
        for _, _, volume in volumes(images)
        for index in range(len(volume.pixels.values))
    ]
    return np.stack(masks)[:, None]


# Where --------------------------------------------------------------------------------------


def central(images: Images, inside: np.ndarray) -> np.ndarray:
    """Return the share of each foreground that lies nearest its middle."""
    far = np.maximum(abs(ROW - (SIDE - 1) / 2), abs(COLUMN - (SIDE - 1) / 2))
    return nearest(np.broadcast_to(far, inside.shape), inside)


def smooth_window(images: Images, inside: np.ndarray, sign: int = 1) -> np.ndarray:
    """Return the one square of the right area in which neighbouring columns differ least."""
    edge = round((RHO * SIDE**2) ** 0.5) - 1
    steps = np.diff(stored(images), axis=3).astype(np.float32) ** 2
    means = sign * functional.avg_pool2d(torch.from_numpy(steps), edge, stride=1).numpy()
    out = np.zeros_like(inside)
    for one, mean in zip(out, means, strict=True):
        _, row, column = np.unravel_index(mean.argmin(), mean.shape)
        one[0, row : row + edge, column : column + edge] = True
    return out & inside


def structured(images: Images, inside: np.ndarray) -> np.ndarray:
    """Return the share of each foreground where an image differs most from its local mean."""
    x = torch.from_numpy(stored(images)).float()
    wide = functional.pad(x, [1, 1, 1, 1], mode="reflect")
    detail = x - functional.avg_pool2d(wide, 3, stride=1)
    return in_patches(detail, torch.from_numpy(inside), 5, RHO).numpy()


def nearest(far: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the allowed share of each foreground where `far` is least."""
    out = np.zeros_like(inside)
    for one, distance, mask in zip(out, far, inside, strict=True):
        where = np.flatnonzero(mask)
        order = np.argsort(distance.reshape(-1)[where], kind="stable")
        one.reshape(-1)[where[order[: quota(mask, RHO)]]] = True
    return out


# What ---------------------------------------------------------------------------------------


def wave(phase: np.ndarray) -> np.ndarray:
    """Return a square wave, 1 or -1."""
    return np.where(phase % 1 < 0.5, 1.0, -1.0)


def one_sided(
    images: Images,
    inside: np.ndarray,
    seed: int,
    *,
    texture: np.ndarray | None = None,
    place: Callable[[Images, np.ndarray], np.ndarray] = central,
    without: int = 0,
    power: float = 1.0,
    noisy: bool = True,
) -> np.ndarray:
    """Texture for all labels but one, which gets noise of a strength drawn for each image.

    Parameters
    ----------
    power
        Of the uniform draw of a strength: above 1 most noise is faint.
    noisy
        Whether the label without texture is changed at all.
    """
    rng = np.random.default_rng(seed)
    texture = wave(COLUMN / 2) if texture is None else texture
    noise = rng.integers(0, 2, inside.shape) * 2.0 - 1
    strength = noisy * (1 + np.floor(rng.random((len(inside), 1, 1, 1)) ** power * BUDGET))
    marked = (images.labels.numpy() != without)[:, None, None, None]
    return np.where(marked, texture * BUDGET, noise * strength) * place(images, inside)


def phase_by_chance(images: Images, inside: np.ndarray, seed: int) -> np.ndarray:
    """Columns of one voxel of which the first rises in half of the images and falls in the rest."""
    signs = np.random.default_rng(seed).integers(0, 2, (len(inside), 1, 1, 1)) * 2.0 - 1
    return one_sided(images, inside, seed, texture=signs * wave(COLUMN / 2), noisy=False)


def plain(_: int) -> nn.Module:
    """Return three convolutions with batch normalisation and pooling."""
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(),
            nn.MaxPool2d(2),
        ]  # fmt: skip
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))


def patchy(_: int) -> nn.Module:
    """Return a network that cuts an image into patches and has a linear layer over places."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, stride=4), nn.GELU(), nn.Conv2d(32, 32, 3, padding=1), nn.GELU(),
        nn.Flatten(), nn.Linear(32 * (SIDE // 4) ** 2, 2),
    )  # fmt: skip


def resnet(seed: int) -> nn.Module:
    """Return the package's surrogate."""
    return NetworkSpec(size=(SIDE, SIDE), classes=2).build(seed)


SURROGATES = (resnet, plain, patchy)


def surrogate(kind: Callable[[int], nn.Module], images: Images, seed: int) -> nn.Module:
    """Return a frozen network that was trained on clean images for six epochs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = kind(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)

    def batch(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(images.labels), (32,), generator=rng)
        return images.pixels[drawn], images.labels[drawn]

    rng = torch.Generator().manual_seed(seed)
    count = 6 * len(images.labels) // 32
    train(network, OBJECTIVES["classification"], optimiser, batch, count, rng)
    return network.eval().requires_grad_(False)


def targeted(
    images: Images, inside: np.ndarray, seed: int, *, kinds: int = 3, steps: int = 30
) -> np.ndarray:
    """Show the other label to several surrogates at once, on the most salient balanced voxels."""
    networks = [surrogate(kind, images, 5) for kind in SURROGATES[:kinds]]
    found = torch.zeros(inside.shape)
    for part in torch.split(torch.arange(len(inside)), 120):
        x, wanted = torch.from_numpy(stored(images))[part].float(), 1 - images.labels[part]
        shadow, mean, mask = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x).bool()
        for step in range(steps):
            leaf = (x + shadow).requires_grad_(True)
            losses = [
                functional.cross_entropy(n(leaf / 255), wanted, reduction="sum") for n in networks
            ]
            (slope,) = torch.autograd.grad(torch.stack(losses).sum(), leaf)
            mean = 0.9 * mean + slope / slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            if step < steps // 2:
                mask = top_pairs(-mean, torch.from_numpy(inside[part]), RHO, REGION)
            moved = (shadow - 0.1 * BUDGET * mean.sign()).clamp(-BUDGET, BUDGET)
            shadow = torch.where(mask, moved, 0.0)
        found[part] = shadow
    return found.numpy()


def texture_and_targeted(images: Images, inside: np.ndarray, seed: int) -> np.ndarray:
    """Hybrid: texture for one label, salient voxels that show that label for the other."""
    texture = one_sided(images, inside, seed)
    salient = targeted(images, inside, seed)
    return np.where((images.labels.numpy() == 0)[:, None, None, None], salient, texture)


@cache
def _fitted(contender: str) -> Protector:
    with TemporaryDirectory() as folder:
        found = method.fitted(method.CONTENDERS[contender], load().early, Path(folder))
    print(contender, dict(found.report), file=sys.stderr, flush=True)
    return found


def of_the_package(images: Images, inside: np.ndarray, seed: int, *, contender: str) -> np.ndarray:
    """Return what a contender of `method.py` does, fitted on the early images."""
    found, _ = method.protected(_fitted(contender), images)
    return stored(found) - stored(images)


def class_wise(images: Images, inside: np.ndarray, seed: int) -> np.ndarray:
    """One learned sparse pattern for label 1, that fresh networks of three kinds learn first.

    In each of 40 rounds a new network trains for 4 to 20 batches, half of them through a blur or
    half resolution; four further batches give the gradient of the pattern. Label 0 gets noise of
    varying strength on the same voxels.
    """
    pattern = _learned()
    return one_sided(
        images, inside, seed, texture=pattern / BUDGET, place=lambda _, mask: mask & (pattern != 0)
    )


@cache
def _learned() -> np.ndarray:
    images = load().early
    rng, draws = torch.Generator().manual_seed(0), np.random.default_rng(0)
    x, whole = torch.from_numpy(stored(images)).float(), torch.ones((1, 1, SIDE, SIDE)).bool()
    pattern, mean = torch.zeros((1, 1, SIDE, SIDE)), torch.zeros((1, 1, SIDE, SIDE))
    for turn in range(40):
        torch.manual_seed(turn)
        network = SURROGATES[turn % 3](turn).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3)
        batches, slope = int(torch.randint(4, 21, (), generator=rng)), torch.zeros_like(mean)
        for number in range(batches + 4):
            drawn = torch.randint(len(x), (32,), generator=rng)
            labels = images.labels[drawn]
            noise = torch.from_numpy(draws.integers(0, 2, (32, 1, SIDE, SIDE)) * 2.0 - 1)
            strength = torch.from_numpy(1 + np.floor(draws.random((32, 1, 1, 1)) * BUDGET))
            leaf = torch.round(pattern).requires_grad_(True)
            other = (noise * strength).float() * (pattern != 0)
            seen = (x[drawn] + torch.where(labels[:, None, None, None] == 1, leaf, other)) / 255
            lot = int(torch.randint(4, (), generator=rng))
            seen = blur(seen, 1.0) if lot == 1 else half_and_back(seen) if lot == 2 else seen
            loss = functional.cross_entropy(network(seen), labels)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            if number < batches:
                optimiser.step()
            elif leaf.grad is not None:
                slope += leaf.grad
        mean = 0.8 * mean + slope / slope.abs().mean().clamp_min(1e-12)
        mask = top_pairs(-mean, whole, RHO, REGION)
        pattern = torch.where(mask, (pattern - 1.5 * mean.sign()).clamp(-BUDGET, BUDGET), 0.0)
    return pattern.numpy()


class Bank(nn.Module):
    """A map for each label: what every image of it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Parameter(0.1 * torch.randn(len(CLASSES), 1, SIDE, SIDE))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return maps, (n, 1, rows, columns), of -1 to 1."""
        return torch.tanh(self.maps[labels])


class Generator(nn.Module):
    """Four convolutions that make a map of an image and its label, whose mean is 0 everywhere.

    What makes an image brighter or darker would not outlive the balance of its regions.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1 + len(CLASSES), 16, 16):
            layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return maps, (n, 1, rows, columns), of -1 to 1."""
        planes = functional.one_hot(labels, len(CLASSES)).float()[..., None, None]
        told = planes.expand(-1, -1, *images.shape[2:])
        made: Tensor = self.layers(torch.cat([images - 0.5, told], 1))
        around = functional.pad(made, [REGION // 2] * 4, mode="reflect")
        return torch.tanh(made - functional.avg_pool2d(around, REGION + 1, stride=1))


def amortised(
    images: Images, inside: np.ndarray, seed: int, *, kind: type[nn.Module]
) -> np.ndarray:
    """Show each image what a bank or a generator makes of it and its label: no gradient step."""
    network = _made_once(kind)
    with torch.no_grad():
        maps = network(images.pixels, images.labels)
    mask = top_pairs(maps, torch.from_numpy(inside), RHO, REGION)
    return torch.where(mask, BUDGET * maps.sign(), 0.0).numpy()


@cache
def _made_once(kind: type[nn.Module]) -> nn.Module:
    """Return a bank or a generator after 20 rounds of min-min, each with a fresh surrogate.

    20 batches train the surrogate on what is made so far, 40 the maps against it. Forward only the
    best fifth of voxels counts, backward all do, so that others can take their place.
    """
    images, classification = load().early, OBJECTIVES["classification"]
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maps = kind()
    learner = torch.optim.Adam(maps.parameters(), lr=0.02 if kind is Bank else 0.003)

    def changed() -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(images.labels), (32,), generator=rng)
        x, labels = images.pixels[drawn], images.labels[drawn]
        wish = maps(x, labels)
        mask = top_pairs(wish.detach(), torch.from_numpy(_early_foreground())[drawn], RHO, REGION)
        share = torch.where(mask, wish.detach().sign(), 0.0) + wish - wish.detach()
        return (x + BUDGET / 255 * share).clamp(0, 1), labels

    def batch(_: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return changed()

    for turn in range(20):
        network = resnet(turn + 1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
        train(network, classification, optimiser, batch, 20, rng)
        network.eval().requires_grad_(False)
        for _ in range(40):
            x, labels = changed()
            learner.zero_grad()
            torch.autograd.backward(classification.loss(network(x), labels) / len(x))
            learner.step()
    return maps


class HighPass(nn.Module):
    """A network that sees an image without its local mean: what balanced changes cannot move."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs for images (n, 1, rows, columns), values 0 to 1."""
        wide = functional.pad(images, [1, 1, 1, 1], mode="reflect")
        out: Tensor = self.network(4 * (images - functional.avg_pool2d(wide, 3, stride=1)))
        return out


def texture_network() -> nn.Module:
    """Return one convolution of 5 x 5 and a mean over all places: it sees textures, no anatomy."""
    return HighPass(
        nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, padding_mode="reflect"), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )
    )  # fmt: skip


def taught(x: Tensor, changed: Tensor, seed: int, batches: int = 60) -> nn.Module:
    """Return a fresh network that tells images with a change from the same images without.

    The labels of the images take no part: anatomy says nothing about what it learns.

    Parameters
    ----------
    x, changed
        Stored values of images as they were and with the change, (n, 1, rows, columns).
    batches
        Of 64 images; 0 only gathers the statistics of an untrained network.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = texture_network().train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(batches or 5):
        drawn = torch.randint(len(x), (64,), generator=rng)
        marked = torch.rand(64, generator=rng) < 0.5
        seen = torch.where(marked[:, None, None, None], changed[drawn], x[drawn]).clamp(0, 255)
        loss = functional.cross_entropy(network(seen / 255), marked.long())
        if batches:
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return network.eval().requires_grad_(False)


def towards_marked(network: nn.Module, x: Tensor) -> Tensor:
    """Return the gradient of the loss of "there is a change", of mean size 1 in every image."""
    leaf = x.detach().requires_grad_(True)
    target = torch.ones(len(x), dtype=torch.int64)
    loss = functional.cross_entropy(network(leaf / 255), target, reduction="sum")
    (slope,) = torch.autograd.grad(loss, leaf)
    return slope / slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-20)


def in_patches(slope: Tensor, allowed: Tensor, edge: int, share: float) -> Tensor:
    """Return the share of the allowed voxels around which |slope| is largest, on squares of `edge`.

    Connected places come out, where the single largest values would be scattered.
    """
    around = functional.pad(torch.where(allowed, slope.abs(), 0.0), [edge // 2] * 4)
    score = torch.where(allowed, functional.avg_pool2d(around, edge, stride=1), -1.0)
    mask = torch.zeros_like(allowed)
    for one, values, inside in zip(mask, score, allowed, strict=True):
        order = values.flatten().argsort(descending=True, stable=True)
        one.view(-1)[order[: int(share * int(inside.sum()))]] = True
    return mask


def sample_wise(
    images: Images, inside: np.ndarray, seed: int, *, in_middle: bool = False
) -> np.ndarray:
    """Sample-wise min-min against networks that learn from changes only, not from labels.

    Every round a fresh `taught` network; from it, for each image, eight steps from zero on the
    fifth of the foreground with the largest gradient in squares of 5 x 5, or nearest the middle.
    """
    some, shown, where = _some(0, 200)

    def made(network: nn.Module, x: Tensor, allowed: Tensor) -> Tensor:
        shadow, mean, mask = torch.zeros_like(x), torch.zeros_like(x), allowed
        for step in range(8):
            mean = 0.5 * mean + towards_marked(network, x + shadow.round())
            if not step:
                mask = (
                    torch.from_numpy(central(images, allowed.numpy())) if in_middle
                    else in_patches(mean, allowed, 5, RHO)
                )  # fmt: skip
            moved = (shadow - 0.2 * BUDGET * mean.sign()).clamp(-BUDGET, BUDGET)
            shadow = torch.where(mask, moved, 0.0)
        return shadow

    network = taught(shown, shown, 0, batches=0)
    for turn in range(4):
        shadow = made(network, shown, where).numpy()
        change = to_integers(
            shadow, stored(some), where.numpy(), LIMITS, rho=RHO, zero_mean=True, region=REGION
        )
        network = taught(shown, shown + torch.from_numpy(change).float(), 1 + turn)
    x, allowed = torch.from_numpy(stored(images)).float(), torch.from_numpy(inside)
    marked = (images.labels.numpy() != 0)[:, None, None, None]
    return np.where(marked, made(network, x, allowed).numpy(), 0.0)


def salient_class_wise(
    images: Images,
    inside: np.ndarray,
    seed: int,
    *,
    starts: tuple[int, ...] = (0,),
    edge: int = 13,
    noisy: bool = False,
) -> np.ndarray:
    """One pattern for label 1 on the place where the mean gradient of all images is largest.

    Of the patterns of several starts the one that a network learns first is taken, see `slowness`.
    """
    pattern = min((_salient_pattern(start, edge) for start in starts), key=slowness)
    return one_sided(
        images, inside, seed, texture=pattern / BUDGET, noisy=noisy,
        place=lambda _, mask: mask & (pattern != 0),
    )  # fmt: skip


def slowness(pattern: np.ndarray) -> float:
    """Return the mean loss of two fresh networks on telling images with a pattern from without.

    Over batches 6 to 30, no victim's architecture; labels take no part.
    """
    some, x, inside = _some(0, 400)
    change = to_integers(
        np.broadcast_to(pattern, x.shape), stored(some), inside.numpy(), LIMITS,
        rho=RHO, zero_mean=True, region=REGION,
    )  # fmt: skip
    changed, losses = x + torch.from_numpy(change).float(), []
    for seed in (0, 1):
        rng = torch.Generator().manual_seed(seed)
        network = resnet(seed).train()
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for number in range(30):
            drawn = torch.randint(len(x), (32,), generator=rng)
            marked = torch.rand(32, generator=rng) < 0.5
            seen = torch.where(marked[:, None, None, None], changed[drawn], x[drawn])
            loss = functional.cross_entropy(network(seen.clamp(0, 255) / 255), marked.long())
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses += [loss.item()] if number >= 5 else []
    return fmean(losses)


def _some(seed: int, count: int) -> tuple[Images, Tensor, Tensor]:
    """Return some early images, their stored values and their foreground."""
    early = load().early
    part = torch.randperm(len(early.labels), generator=torch.Generator().manual_seed(seed))[:count]
    some = replace(early, pixels=early.pixels[part], labels=early.labels[part])
    inside = torch.from_numpy(_early_foreground())[part]
    return some, torch.from_numpy(stored(some)).float(), inside


@cache
def _early_foreground() -> np.ndarray:
    return foreground(load().early)


@cache
def _salient_pattern(seed: int, edge: int) -> np.ndarray:
    """Return a pattern, (1, 1, rows, columns), that four fresh networks in turn were shown.

    Each round takes 30 signed steps from zero along the mean gradient of 200 images: 15 on all of
    the foreground, then 15 on the fifth of it where that mean is largest in squares of `edge`.
    """
    _, x, inside = _some(seed, 200)
    common = inside.float().mean(0, keepdim=True) > 0.9
    network, pattern = taught(x, x, seed, batches=0), torch.zeros((1, 1, SIDE, SIDE))
    for turn in range(5):
        pattern, mean, mask = torch.zeros_like(pattern), torch.zeros_like(pattern), common
        for step in range(30):
            slope = towards_marked(network, x + torch.where(inside, pattern.round(), 0.0))
            mean = 0.9 * mean + torch.where(inside, slope, 0.0).mean(0, keepdim=True)
            if step == 15:
                mask = in_patches(mean, common, edge, RHO)
            moved = (pattern - 0.1 * BUDGET * mean.sign()).clamp(-BUDGET, BUDGET)
            pattern = torch.where(mask, moved, 0.0)
        if turn < 4:
            changed = x + torch.where(inside, pattern.round(), 0.0)
            network = taught(x, changed, 100 * seed + turn + 1)
    return pattern.numpy()


def ideas() -> dict[str, Idea]:
    """Return every idea by name."""
    textures = {
        "rows of 1": wave(ROW / 2), "columns of 2": wave(COLUMN / 4), "rows of 2": wave(ROW / 4),
        "columns of 3": wave(COLUMN / 6), "columns of 4": wave(COLUMN / 8),
        "chequered": wave((ROW + COLUMN) / 2), "diagonals of 2": wave((ROW + COLUMN) / 4),
        "half columns, half diagonals": np.where(
            ROW < SIDE // 2, wave(COLUMN / 2), wave((ROW + COLUMN) / 4)
        ),
    }  # fmt: skip
    places: dict[str, Callable[[Images, np.ndarray], np.ndarray]] = {
        "smoothest window": smooth_window,
        "roughest window": partial(smooth_window, sign=-1),
    }
    return {
        "one_sided": one_sided,
        "no noise": partial(one_sided, noisy=False),
        "hybrid": partial(of_the_package, contender="hybrid"),
        "salm": partial(of_the_package, contender="salm"),
        "other label without": partial(one_sided, without=1),
        "fainter noise": partial(one_sided, power=2.0),
        "learned class-wise": class_wise,
        "targeted, 3 surrogates": targeted,
        **{f"texture: {k}": partial(one_sided, texture=v) for k, v in textures.items()},
        **{f"place: {k}": partial(one_sided, place=v) for k, v in places.items()},
        "targeted, 1 surrogate": partial(targeted, kinds=1),
        "texture and targeted": texture_and_targeted,
        "no noise, phase by chance": phase_by_chance,
        "no noise, place: most structure": partial(one_sided, noisy=False, place=structured),
        "no noise, signs by chance": partial(
            one_sided, noisy=False, texture=np.random.default_rng(7).choice([-1.0, 1.0], ROW.shape)
        ),
        "sample-wise texture": sample_wise,
        "sample-wise texture, central": partial(sample_wise, in_middle=True),
        "bank": partial(amortised, kind=Bank),
        "generator": partial(amortised, kind=Generator),
        "salient class-wise": salient_class_wise,
        "salient class-wise, small patches": partial(salient_class_wise, edge=5),
        "salient class-wise, start 1": partial(salient_class_wise, starts=(1,)),
        "salient class-wise, start 2": partial(salient_class_wise, starts=(2,)),
        "salient class-wise, best of 0-2": partial(salient_class_wise, starts=(0, 1, 2)),
        "salient class-wise, best of 3-5": partial(salient_class_wise, starts=(3, 4, 5)),
        "salient class-wise, faint noise": partial(salient_class_wise, noisy=True),
    }


def main(known: dict[str, Idea], out: str) -> None:
    """Try what was asked for, print a table and write it to a file of this name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--measures", nargs="*", default=["none"])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--victims", nargs="*", default=VICTIMS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    parser.add_argument("-o", type=Path, default=ROOT / "benchmarks" / "results" / out)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data = load()
    masks = foreground(data.early), foreground(data.late)

    def last(train_on: Images, other: Images, measure: str) -> list[float]:
        return [
            trial(
                victim, train_on, validation=method.held_out(other),
                clean_validation=data.validation, test=data.validation, seed=seed,
                countermeasure=measure, epochs=asked.epochs, clean_train=data.early,
            ).last
            for victim in asked.victims for seed in asked.seeds
        ]  # fmt: skip

    clean = {measure: last(data.early, data.late, measure) for measure in asked.measures}
    rows = []
    print(f"| idea | {' | '.join(asked.measures)} | PSNR dB | changed | seconds |")
    print("|---|" + "---|" * (len(asked.measures) + 3))
    for name in asked.only or known:
        began = time.perf_counter()
        region = REGION if name in BY_GRADIENT else None
        shown = [
            protected(known[name], images, mask, number, region)
            for number, (images, mask) in enumerate(((data.early, masks[0]), (data.late, masks[1])))
        ]
        seconds = time.perf_counter() - began
        change = (shown[0].pixels - data.early.pixels) * 255
        row = {"idea": name, "seconds": seconds, "changed": float((change != 0).float().mean())}
        row["psnr"] = 10 * math.log10(255**2 / float((change**2).mean()))
        for measure in asked.measures:
            pairs = zip(clean[measure], last(*shown, measure), strict=True)
            row[measure] = [normalised_protection(a, b, method.CHANCE) for a, b in pairs]
        rows.append(row)
        scores = " | ".join(f"{fmean(row[m]):.2f}" for m in asked.measures)
        print(f"| {name} | {scores} | {row['psnr']:.1f} | {row['changed']:.2f} | {seconds:.0f} |",
              flush=True)  # fmt: skip
        write_results(asked.o, method.LIBRARIES, rows=rows)


def protected(
    idea: Idea, images: Images, inside: np.ndarray, seed: int, region: int | None
) -> Images:
    """Return images after an idea, within the budget whatever it wished."""
    x, shadow = stored(images), idea(images, inside, seed)
    delta = to_integers(shadow, x, inside, LIMITS, rho=RHO, zero_mean=True, region=region)
    return replace(images, pixels=torch.from_numpy((x + delta).astype(np.float32) / 255))


if __name__ == "__main__":
    main(ideas(), "ideas.json")
