"""OBJECTIVES: what surrogates learn (a label, several, or a mask): losses and errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What a surrogate is to say of an image, and how far it is from that.

    Targets are int64: classes, (n,); or for each label whether it holds, (n, labels), 0 or 1; or
    masks of classes, (n, 1, *spatial) of any size, 0 for none.

    Parameters
    ----------
    loss
        Of outputs and targets, summed over samples.
    tally
        Counts of outputs and targets; counts of several batches add up.
    error
        What all counts mean, 0 (always right) to 1.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    tally: Callable[[Tensor, Tensor], Tensor]
    error: Callable[[Tensor], float]


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="sum")


def _wrong(outputs: Tensor, targets: Tensor) -> Tensor:
    wrong = outputs.argmax(1) != targets
    return torch.stack([wrong.sum(), torch.tensor(len(wrong))])


def _share_wrong(tally: Tensor) -> float:
    return float(tally[0]) / float(tally[1])


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    found = functional.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none")
    return found.mean(1).sum()


def _wrong_by_label(outputs: Tensor, targets: Tensor) -> Tensor:
    """Count for each label, where it does not hold and where it does, the wrong and all."""
    wrong = (outputs > 0) != targets.bool()
    sides = [targets == side for side in (0, 1)]
    return torch.stack(
        [torch.stack([(wrong & side).sum(0), side.sum(0)], dim=-1) for side in sides], dim=1
    )


def _balanced_error(tally: Tensor) -> float:
    """Return the mean over labels and both sides: always saying no is half wrong, not hardly."""
    wrong, count = tally[..., 0].double(), tally[..., 1].double()
    return float((wrong / count)[count > 0].mean())


def dice_and_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the DiceCE loss summed over samples; masks are brought to the grid of the outputs."""
    from monai.losses.dice import DiceCELoss

    masks = network_target(targets, tuple(outputs.shape[2:]))
    loss: Tensor = DiceCELoss(to_onehot_y=True, softmax=True)(outputs, masks)
    return loss * len(outputs)  # every sample has as many voxels


def overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return for each class twice the common voxels, and the sum of both, (classes, 2)."""
    masks = network_target(targets, tuple(outputs.shape[2:]))
    found = outputs.argmax(1)[:, None]
    pairs = [(found == one, masks == one) for one in range(1, outputs.shape[1])]
    counts = [torch.stack([2 * (a & b).sum(), a.sum() + b.sum()]) for a, b in pairs]
    return torch.stack(counts).double()


def dice(tally: Tensor) -> float:
    """Return the mean Dice of all classes that occur, 0 to 1; 1 where none occurs or is found.

    Parameters
    ----------
    tally
        As `overlaps` counts: the voxels of all samples are taken together.
    """
    occurs = tally[:, 1] > 0
    return float((tally[occurs, 0] / tally[occurs, 1]).mean()) if occurs.any() else 1.0


def network_target(masks: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return masks of classes, (n, 1, *spatial), on a network's grid: that of the nearest voxel."""
    if tuple(masks.shape[2:]) == size:
        return masks
    return functional.interpolate(masks.float(), size=size, mode="nearest-exact").long()


OBJECTIVES: dict[str, Objective] = {
    "classification": Objective(loss=_cross_entropy, tally=_wrong, error=_share_wrong),
    "multilabel": Objective(
        loss=_binary_cross_entropy,
        tally=_wrong_by_label,
        error=_balanced_error,
    ),
    "segmentation": Objective(
        loss=dice_and_cross_entropy,
        tally=overlaps,
        error=lambda tally: 1 - dice(tally),
    ),
}
