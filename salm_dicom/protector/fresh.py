"""Fresh: surrogates that cannot learn anatomy, several together, new ones in every round.

A fit begins with untrained networks of three architectures, four times each. Every round perturbs
some samples from zero against the last twelve networks (all of them choose the voxels, and at every
later step one of each architecture has its turn), and teaches three new ones to tell labels by the
perturbation alone: each lies on another image, of any label, and no image is shifted. They see that
of a label that is to be spared as well: what tells labels apart is then the sign of a texture, on
which networks agree, where against noise each finds a texture of its own.

What a network learns from so few images is where a victim's first steps lead as well. A surrogate
that goes on learning, and sees the perturbation on its own image, learns anatomy beside it; then a
small perturbation is all that it needs, and a victim never finds it. Found in this project's own
trials, see the results: min-min with fresh networks, an ensemble and swapped content.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from salm_dicom.networks import KINDS, NetworkSpec, Together
from salm_dicom.objectives import OBJECTIVES
from salm_dicom.perturb.robust import transformed
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.apply import seed_of
from salm_dicom.protector.lesson import learn
from salm_dicom.protector.spool import Spool
from salm_dicom.protector.surrogate import OnDevice

# Samples that a fit perturbs and lays on each other.
_IMAGES, _FEWEST_IMAGES = 320, 48
_BATCH, _SMALLEST_BATCH = 64, 8
# Bounds of both for large inputs, in values: 256 images of 128 x 128, in batches of 16.
_VALUES, _VALUES_OF_A_BATCH = 2**22, 2**18


def batch_size(size: tuple[int, ...]) -> int:
    """Return how many images of a size make a batch."""
    return min(_BATCH, max(_SMALLEST_BATCH, _VALUES_OF_A_BATCH // prod(size)))


def chosen(spool: Spool, plan: ProtectionPlan, size: tuple[int, ...]) -> Spool:
    """Return the part of what was read that a fit looks at: of every label as many volumes."""
    rng = torch.Generator().manual_seed(seed_of(plan.seed, "fresh/volumes"))
    wanted = min(_IMAGES, max(_FEWEST_IMAGES, _VALUES // prod(size)))
    known = Counter[Hashable]()
    turns = []
    for number in torch.randperm(len(spool.samples), generator=rng).tolist():
        label = spool.label(number)
        turns.append((known[label], number))
        known[label] += 1
    taken: list[tuple[str, int]] = []
    # every label's first volume in the order drawn, then every one's second
    for turn, number in sorted(turns, key=lambda one: one[0]):
        if turn and sum(looks for _, looks in taken) >= wanted:
            break
        taken.append(spool.samples[number])
    return replace(spool, samples=tuple(taken))


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """Draws perturbations that lie on images of any label; see `lesson.Shown`.

    Parameters
    ----------
    images, changes
        Network inputs as they were, and what perturbations add, (n, 1, *size) each.
    targets
        Of the changes, see `objectives.Objective`.
    eot
        Keys of `TRANSFORMS`: what happens to a batch, at random, before a network sees it.
    """

    images: Tensor
    changes: Tensor
    targets: Tensor
    eot: tuple[str, ...] = ()

    def __call__(self, rng: torch.Generator, strength: float) -> tuple[Tensor, Tensor]:
        """Return network inputs and the targets of what was laid on them, so often as strong."""
        size = (batch_size(tuple(self.images.shape[2:])),)
        which = torch.randint(len(self.changes), size, generator=rng)
        on = torch.randint(len(self.images), size, generator=rng)
        found = (self.images[on] + strength * self.changes[which]).clamp(0, 1)
        return transformed(found, self.eot, rng), self.targets[which]


def laid(spool: Spool, plan: ProtectionPlan, size: tuple[int, ...], shadows: int) -> Laid:
    """Return what networks learn from after so many noise phases; in memory, for it is bounded."""
    images, changes, targets = [], [], []
    for number, (_, looks) in enumerate(spool.samples):
        sample = spool.sample(number, shadows)
        for look in range(looks):
            image, target = sample.seen(look, size, plain=True)
            images.append(image)
            changes.append(sample.seen(look, size)[0] - image)
            targets.append(target)
    known = torch.cat(targets)
    often = evenly(known)
    return Laid(
        images=torch.cat(images),
        changes=torch.cat(changes)[often],
        targets=known[often],
        eot=plan.eot,
    )


def evenly(targets: Tensor) -> Tensor:
    """Return places of targets, those of rarer labels several times, so that all occur as often.

    Else networks would learn to say the label that is there most. Of several labels or masks each
    has its place once.
    """
    places = torch.arange(len(targets))
    if targets.ndim > 1:
        return places
    counts = torch.bincount(targets)
    return places.repeat_interleave((counts.max() // counts.clamp(min=1))[targets])


def teach(
    together: nn.Module, shown: Laid, plan: ProtectionPlan, spec: NetworkSpec,
    turn: int, device: str, rng: torch.Generator,
) -> int:  # fmt: skip
    """Put new networks, taught by what is shown, in the place of the oldest ones.

    Returns how many forward and backward passes of one image and network that took.

    Parameters
    ----------
    turn
        Number of the round.
    """
    assert isinstance(together, Together)
    taught, passes = [], 0
    for kind in range(KINDS):
        network = spec.build_member(kind, seed_of(plan.seed, f"fresh/{turn}/{kind}")).to(device)
        passes += learn(OnDevice(network, device), OBJECTIVES[spec.objective], shown, rng)
        taught.append(network)
    together.members = nn.ModuleList([*together.members[KINDS:], *taught])
    return passes
