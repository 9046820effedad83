"""TASKS: what victims learn (a label, several, or a mask), and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from salm_dicom.audit.score import area_under_curve, balanced_share, chance_of_masks
from salm_dicom.objectives import dice, dice_and_cross_entropy
from salm_dicom.victims import SEGMENTERS, VICTIMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One kind of labels.

    What a victim made of each image is kept as *evidence*, first dimension n, so that images can be
    drawn again without asking the victim again.

    Parameters
    ----------
    score
        What the score is called, 0 to 1.
    what
        What the classes are of.
    victims
        Networks that learn it.
    weights
        Of labels: what a loss compares with.
    losses, loss
        Of outputs and weights: of each image, (n,), and the mean that is trained with.
    evidence
        Of outputs and labels: of labels (n,), True where it was recognised; of masks (n, classes,
        2), see `objectives.overlaps`; of several labels (n, labels).
    scored
        Score of all images, from evidence and labels.
    drawn
        The same for draws of images: from evidence, labels and how often each image is drawn,
        (draws, n); NaN where nothing can be scored.
    shows
        Which classes each image has, (n, classes); of several labels then those it has not.
    chance
        Score without looking.
    area
        Area under the ROC curve from outputs and labels; None of masks.
    """

    score: str
    what: str
    victims: Mapping[str, Callable[[int, tuple[int, ...]], nn.Module]]
    weights: Callable[[Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    evidence: Callable[[Tensor, Tensor], Tensor]
    scored: Callable[[Tensor, Tensor], float]
    drawn: Callable[[Tensor, Tensor, Tensor], Tensor]
    shows: Callable[[Tensor], Tensor]
    chance: Callable[[Tensor], float]
    area: Callable[[Tensor, Tensor], float] | None


def task_of(labels: Tensor) -> str:
    """Return the key of `TASKS` for labels (n,) or (n, labels), or masks (n, 1, *spatial)."""
    return {1: "classification", 2: "multilabel"}.get(labels.ndim, "segmentation")


def outputs_of(labels: Tensor) -> int:
    """Return how many outputs a victim of these labels has; of masks, the first is for none."""
    return labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1


def _cross_entropy(outputs: Tensor, weights: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, weights, reduction="none")


def _recognised(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.argmax(1) == labels


def _drawn_recall(evidence: Tensor, labels: Tensor, times: Tensor) -> Tensor:
    of_label = functional.one_hot(labels).double()
    recall = (times @ (evidence.double()[:, None] * of_label)) / (times @ of_label)
    return recall.nanmean(1)


def _binary_cross_entropy(outputs: Tensor, weights: Tensor) -> Tensor:
    found = functional.binary_cross_entropy_with_logits(outputs, weights, reduction="none")
    return found.mean(1)


def _right_by_label(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs > 0) == labels.bool()


def _balanced_by_label(evidence: Tensor, labels: Tensor) -> float:
    pairs = zip(evidence.T, labels.T, strict=True)
    return fmean(balanced_share(right, label) for right, label in pairs)


def _drawn_by_label(evidence: Tensor, labels: Tensor, times: Tensor) -> Tensor:
    """Return the mean over labels of the mean recall of images with and without it."""
    right, sides = evidence.double(), torch.stack([1 - labels, labels]).double()
    recall = torch.stack([(times @ (right * side)) / (times @ side) for side in sides])
    return recall.nanmean(0).nanmean(1)


def _area_by_label(outputs: Tensor, labels: Tensor) -> float:
    """Return the mean area of the labels that some images have and others do not."""
    both = [label for label in range(labels.shape[1]) if 0 < labels[:, label].sum() < len(labels)]
    pairs = [(torch.stack([-outputs[:, k], outputs[:, k]], 1), labels[:, k]) for k in both]
    return fmean(area_under_curve(*pair) for pair in pairs) if pairs else 0.5


def _voxel_cross_entropy(outputs: Tensor, masks: Tensor) -> Tensor:
    found = functional.cross_entropy(outputs, masks[:, 0], reduction="none")
    return found.flatten(1).mean(1)


def _mean_dice(outputs: Tensor, masks: Tensor) -> Tensor:
    return dice_and_cross_entropy(outputs, masks) / len(outputs)


def _overlaps(outputs: Tensor, masks: Tensor) -> Tensor:
    """Count for each image and class twice the common voxels, and the sum of both."""
    n, classes = len(outputs), outputs.shape[1]
    # one more stands for classes that the victim never saw
    edge = classes + 1
    pairs = masks.clamp(max=classes) * edge + outputs.argmax(1)[:, None]
    image = torch.arange(n)[:, None] * edge**2
    counts = torch.bincount((image + pairs.flatten(1)).flatten(), minlength=n * edge**2)
    table = counts.reshape(n, edge, edge).double()
    common = 2 * table.diagonal(dim1=1, dim2=2)
    both = table.sum(1) + table.sum(2)
    return torch.stack([common, both], dim=2)[:, 1:classes]


def _drawn_dice(evidence: Tensor, _: Tensor, times: Tensor) -> Tensor:
    tally = (times @ evidence.flatten(1)).reshape(len(times), -1, 2)
    # a class that neither occurs nor is found is 0 / 0, and left out of the mean
    return (tally[..., 0] / tally[..., 1]).nanmean(1)


def _marked(masks: Tensor) -> Tensor:
    flat = masks.flatten(1)
    return torch.stack([(flat == one).any(1) for one in range(1, outputs_of(masks))], dim=1)


TASKS: dict[str, Task] = {
    "classification": Task(
        score="balanced accuracy",
        what="labels",
        victims=VICTIMS,
        weights=lambda labels: functional.one_hot(labels).float(),
        losses=_cross_entropy,
        loss=functional.cross_entropy,
        evidence=_recognised,
        scored=balanced_share,
        drawn=_drawn_recall,
        shows=lambda labels: functional.one_hot(labels).bool(),
        chance=lambda labels: 1 / outputs_of(labels),
        area=area_under_curve,
    ),
    "multilabel": Task(
        score="balanced accuracy over labels",
        what="labels",
        victims=VICTIMS,
        weights=lambda labels: labels.float(),
        losses=_binary_cross_entropy,
        loss=lambda outputs, weights: _binary_cross_entropy(outputs, weights).mean(),
        evidence=_right_by_label,
        scored=_balanced_by_label,
        drawn=_drawn_by_label,
        shows=lambda labels: torch.cat([labels, 1 - labels], dim=1).bool(),
        chance=lambda _: 0.5,
        area=_area_by_label,
    ),
    "segmentation": Task(
        score="Dice",
        what="classes of masks",
        victims=SEGMENTERS,
        weights=lambda masks: masks,
        losses=_voxel_cross_entropy,
        loss=_mean_dice,
        evidence=_overlaps,
        scored=lambda evidence, _: dice(evidence.sum(0)),
        drawn=_drawn_dice,
        shows=_marked,
        chance=chance_of_masks,
        area=None,
    ),
}
