"""Clusters: label-free fits. Series that look alike are a label, and later ones join the nearest.

A small network learns, without labels, to tell slices of the fit apart whatever is done to them
(cropped, mirrored, brighter, noisy); K-means groups what it says of each series.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.errors import InputError, NoForeground, PlanError
from salm_dicom.foreground import foreground
from salm_dicom.intensity import intensity_range
from salm_dicom.learning import network_input, reproducible
from salm_dicom.networks import NetworkSpec
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.sampled import Failed, Progress, Study
from salm_dicom.protector.samples import chosen_slices, per_slice, samples
from salm_dicom.protector.surrogate import Surrogate
from salm_dicom.volume import Volume

# Slices of a series that the encoder looks at, and numbers that it gives for each.
_SLICES, FEATURES = 8, 32
# Its training by Adam with NT-Xent: steps for each batch of a surrogate's fit, slices in a batch.
_STEPS, _BATCH, _RATE, _TEMPERATURE = 4, 32, 1e-3, 0.2
# K-means: starts, and most rounds of each.
_STARTS, _ROUNDS = 10, 100


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """An encoder and the centroids of the clusters of the fit; both are secret.

    Parameters
    ----------
    encoder
        Its outputs are features.
    centroids
        (clusters, features), float32.
    """

    encoder: Surrogate
    centroids: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """What stands in place of labels."""
        return tuple(f"cluster {number}" for number in range(len(self.centroids)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 that tells clusters apart."""
        return hashlib.sha256(self.to_bytes() + self.encoder.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the centroids as a safetensors file."""
        return save_tensors({"centroids": self.centroids})

    def name_of(self, volume: Volume, plan: ProtectionPlan) -> str:
        """Return the cluster of a volume: that of the nearest centroid.

        Raises
        ------
        NoForeground
            It has no anatomy.
        """
        with reproducible(), torch.no_grad():
            found = _features(self.encoder.network(), _seen(volume, plan))
            return self.names[int(torch.cdist(found[None], self.centroids).argmin())]


def from_bytes(centroids: bytes, encoder: Surrogate) -> Clusters:
    """Return the clusters whose `to_bytes` gave `centroids`."""
    return Clusters(encoder=encoder, centroids=load_tensors(centroids)["centroids"])


def encoder_spec(plan: ProtectionPlan) -> NetworkSpec:
    """Return the settings of the encoder; it looks at slices, whatever the extent."""
    return NetworkSpec(size=plan.slice_size, classes=FEATURES)


def clustered(
    studies: Sequence[Study],
    plan: ProtectionPlan,
    workspace: Path,
    progress: Progress,
    failed: Failed,
) -> tuple[list[Study], Clusters]:
    """Return the studies with the names of their clusters as labels, and the clusters.

    Memory does not grow with the studies: what the encoder sees lies in `workspace` meanwhile.

    Raises
    ------
    PlanError
        There are fewer series than clusters.
    """
    with TemporaryDirectory(dir=workspace, prefix="clusters-") as folder, reproducible():
        files: dict[int, Path] = {}
        for index, study in enumerate(studies):
            progress("look", index, len(studies))
            try:
                seen = torch.cat([_seen(one, plan) for one in study.load().volumes()])
            except (InputError, PlanError) as error:
                failed(index, error.code, str(error))
                continue
            files[index] = Path(folder) / f"{index:06d}.npy"
            np.save(files[index], (255 * seen).round().byte().numpy())
        progress("look", len(studies), len(studies))
        if len(files) < plan.clusters:
            raise PlanError(
                f"{plan.clusters} clusters need at least as many series; {len(files)} can be used. "
                "Give --clusters a smaller number (at least 2), or labels"
            )
        rng = torch.Generator().manual_seed(plan.seed)
        encoder = _encoder(list(files.values()), plan, rng, progress)
        with torch.no_grad():
            features = torch.stack([_features(encoder, _loaded(one)) for one in files.values()])
        centroids, places = k_means(features, plan.clusters, rng)
    weights = {name: value.detach().clone() for name, value in encoder.state_dict().items()}
    found = Clusters(
        encoder=Surrogate(spec=encoder_spec(plan), weights=weights), centroids=centroids
    )
    names = dict(zip(files, (found.names[place] for place in places.tolist()), strict=True))
    # one that cannot be read fails again in the fit, under any label
    first = found.names[0]
    labelled = [replace(one, label=names.get(i, first)) for i, one in enumerate(studies)]
    return labelled, found


def k_means(points: Tensor, clusters: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centroids, (clusters, features), and the cluster of each point, (n,).

    The best of ten starts by k-means++; a cluster that loses all its points takes the one that
    lies farthest from its centroid.

    References
    ----------
    Arthur and Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007.
    """
    found = [_k_means(points, _plus_plus(points, clusters, rng)) for _ in range(_STARTS)]
    best = min(found, key=lambda one: float(_squared(points, one).min(1).values.sum()))
    return best, _squared(points, best).argmin(1)


def _plus_plus(points: Tensor, clusters: int, rng: torch.Generator) -> Tensor:
    first = int(torch.randint(len(points), (), generator=rng))
    chosen = points[first : first + 1]
    while len(chosen) < clusters:
        distance = _squared(points, chosen).min(1).values
        # where all points are the same, any will do
        weights = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        place = torch.multinomial(weights, 1, generator=rng)
        chosen = torch.cat([chosen, points[place]])
    return chosen


def _k_means(points: Tensor, centroids: Tensor) -> Tensor:
    places = torch.full((len(points),), -1)
    for _ in range(_ROUNDS):
        distance = _squared(points, centroids)
        now = distance.argmin(1)
        if torch.equal(now, places):
            break
        places = now
        nearest = distance.gather(1, places[:, None])[:, 0]
        for number in range(len(centroids)):
            mine = points[places == number]
            centroids[number] = mine.mean(0) if len(mine) else points[nearest.argmax()]
    return centroids


def _squared(points: Tensor, centroids: Tensor) -> Tensor:
    return ((points[:, None] - centroids) ** 2).sum(-1)


def _encoder(
    files: Sequence[Path], plan: ProtectionPlan, rng: torch.Generator, progress: Progress
) -> nn.Module:
    """Return a network for which two views of a slice are more alike than those of two slices.

    References
    ----------
    Chen et al., *A Simple Framework for Contrastive Learning of Visual Representations*, ICML
    2020.
    """
    network = encoder_spec(plan).build(plan.seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=_RATE)
    network.train()
    steps = _STEPS * plan.rounds * plan.batches
    for step in range(steps):
        progress("encode", step, steps)
        drawn = torch.randint(len(files), (_BATCH,), generator=rng).tolist()
        batch = torch.stack([_any_slice(files[one], rng) for one in drawn])
        both = network(torch.cat([_view(batch, rng), _view(batch, rng)]))
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(_nt_xent(both))
        optimiser.step()
    progress("encode", steps, steps)
    return network.eval()


def _nt_xent(outputs: Tensor) -> Tensor:
    """Return the loss of two views of each slice, (2n, features), one half after the other."""
    unit = functional.normalize(outputs, dim=1)
    likeness = unit @ unit.T / _TEMPERATURE
    likeness = likeness.masked_fill(torch.eye(len(unit), dtype=torch.bool), -1e9)
    partner = torch.arange(len(unit)).roll(len(unit) // 2)
    return functional.cross_entropy(likeness, partner)


def _view(images: Tensor, rng: torch.Generator) -> Tensor:
    """Return images cropped to 60 to 100 % of their edges, some mirrored, brighter, with noise."""
    n = len(images)
    scale = 0.6 + 0.4 * torch.rand(n, generator=rng)
    shift = (2 * torch.rand((2, n), generator=rng) - 1) * (1 - scale)
    mirror = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    zero = torch.zeros(n)
    rows = [
        torch.stack([scale * mirror, zero, shift[0]], 1),
        torch.stack([zero, scale, shift[1]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain = 0.7 + 0.6 * torch.rand((n, 1, 1, 1), generator=rng)
    return seen * gain + 0.03 * torch.randn(seen.shape, generator=rng)


def _features(network: nn.Module, images: Tensor) -> Tensor:
    """Return the direction of the mean feature of a series, (features,), length 1."""
    unit = functional.normalize(network(images), dim=1)
    return functional.normalize(unit.mean(0), dim=0)


def _seen(volume: Volume, plan: ProtectionPlan) -> Tensor:
    """Return what the encoder sees of a volume, (slices, 1, rows, columns), in steps of 1/255."""
    pixels = volume.pixels
    anatomy = foreground(pixels, volume.modality, volume.photometric)
    chosen = chosen_slices(anatomy, None, _SLICES)
    if not len(chosen):
        raise NoForeground("no anatomy was found: the image is constant, air or padding")
    window = intensity_range(plan, volume, anatomy.__getitem__)
    images = network_input(
        torch.from_numpy(samples(pixels.values[chosen].astype(np.float32), "slice")),
        torch.from_numpy(per_slice(pixels.slope[chosen], "slice")),
        torch.from_numpy(per_slice(pixels.intercept[chosen], "slice")),
        window,
        plan.slice_size,
    )
    return (255 * images).round() / 255


def _loaded(file: Path) -> Tensor:
    values: NDArray[np.uint8] = np.load(file)
    return torch.from_numpy(values).float() / 255


def _any_slice(file: Path, rng: torch.Generator) -> Tensor:
    mapped = np.load(file, mmap_mode="r")
    place = int(torch.randint(len(mapped), (), generator=rng))
    return torch.from_numpy(np.array(mapped[place])).float() / 255
