"""Backbones for benchmarks/method.py: victims that know MedNIST's body parts (28 x 28 pixels)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.measured import shared_file  # noqa: E402
from salm_dicom.audit import Images  # noqa: E402
from salm_dicom.networks import AtLeast  # noqa: E402
from salm_dicom.victims import build_victim  # noqa: E402

EPOCHS, BATCH, RATE = 5, 32, 2e-3
# Every so many images one is kept to see what was learned.
KEPT = 10
SIDE = 28


def body_parts() -> Images:
    """Return MedNIST's images and which of six body parts each shows."""
    raw = np.load(shared_file("mednist_subset/mednist_subset.npz"))
    pixels = torch.from_numpy(raw["train_images"]).float()[:, None] / 255
    labels = torch.from_numpy(raw["train_labels"][:, 0].astype(np.int64))
    small = functional.interpolate(pixels, (SIDE, SIDE), mode="area")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Images(pixels=small[order], labels=labels[order])


def learned(victim: str, images: Images, seed: int) -> tuple[torch.nn.Module, float]:
    """Return a victim that learned from most of the images, and its accuracy on the others."""
    is_kept = torch.arange(len(images.labels)) % KEPT == 0
    train, labels = images.pixels[~is_kept], images.labels[~is_kept]
    network = build_victim(victim, int(labels.max()) + 1, (SIDE, SIDE), seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE)
    rng = torch.Generator().manual_seed(seed)
    batches = [
        chosen
        for _ in range(EPOCHS)
        for chosen in torch.randperm(len(labels), generator=rng).split(BATCH)
        if len(chosen) > 1
    ]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=len(batches))
    network.train()
    for chosen in batches:
        optimiser.zero_grad()
        functional.cross_entropy(network(train[chosen]), labels[chosen]).backward()
        optimiser.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        right = network(images.pixels[is_kept]).argmax(1) == images.labels[is_kept]
    return network, float(right.float().mean())


def write(victims: tuple[str, ...], folder: Path, seed: int) -> dict[str, float]:
    """Write what each victim learned as `salm-dicom audit --weights` reads it.

    Returns
    -------
    dict
        Accuracy of each on images that it did not learn from.
    """
    images, reached = body_parts(), {}
    for victim in victims:
        network, reached[victim] = learned(victim, images, seed)
        inner = network.network if isinstance(network, AtLeast) else network
        save_file(inner.state_dict(), folder / f"{victim}.safetensors")
        print(f"{victim}: knows {reached[victim]:.3f} of body parts", file=sys.stderr, flush=True)
    return reached
