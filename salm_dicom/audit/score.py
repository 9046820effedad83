"""Scores of an audit: balanced accuracy, Dice, normalised protection, a verdict in plain words."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from salm_dicom.errors import PlanError

STRONG = 0.9
PARTIAL = 0.5
WEAK = 0.2
# A clean victim that is less than this above chance has not learned enough to lose something.
LEARNED = 0.1


def chance_of_masks(masks: Tensor) -> float:
    """Return the Dice of the best constant answer: every voxel of one class."""
    classes = int(masks.max())
    shares = [float((masks == one).double().mean()) for one in range(1, classes + 1)]
    return max((2 * share / (1 + share) for share in shares), default=0.0) / max(classes, 1)


def area_under_curve(outputs: Tensor, labels: Tensor) -> float:
    """Return the area under the ROC curve, each class against the rest, mean; 0.5 is guessing.

    Parameters
    ----------
    outputs
        Of a network, (n, classes), before softmax.
    labels
        (n,); classes that do not occur are left out, two must.
    """
    from monai.metrics.rocauc import compute_roc_auc

    there = sorted(set(labels.tolist()))
    shares = outputs.softmax(1)[:, there]
    is_class = labels[:, None] == torch.tensor(there)
    area = compute_roc_auc(shares, is_class.long(), average="macro")
    return float(np.asarray(area))


def balanced_share(correct: Tensor, labels: Tensor) -> float:
    """Return the mean over classes of the share of their images for which `correct` is True."""
    recall = [correct[labels == c].double().mean() for c in sorted(set(labels.tolist()))]
    return float(torch.stack(recall).mean())


def normalised_protection(clean: float, protected: float, chance: float) -> float:
    """Return (clean - protected) / (clean - chance): 0 protects nothing, 1 leaves only chance.

    Not clipped: below 0 the victim got better, above 1 it is worse than chance.

    Raises
    ------
    PlanError
        The clean victim is no better than chance, so nothing can be said.
    """
    if not clean > chance:
        raise PlanError(
            f"victims trained on clean data reach {clean:.3f}, chance is {chance:.3f}: the task is "
            "not learned without protection, so protection cannot be measured. Train longer, or "
            "use more images"
        )
    return (clean - protected) / (clean - chance)


def protection_if_any(clean: float, protected: float, chance: float) -> float | None:
    """Return the normalised protection; None where the clean victim learned too little to lose."""
    is_learned = clean - chance >= LEARNED
    return normalised_protection(clean, protected, chance) if is_learned else None


def verdict(protection: float) -> str:
    """Return what a mean normalised protection means, in plain words."""
    percent = f"{100 * min(max(protection, 0.0), 1.0):.0f} % of what could be learned was lost"
    if protection >= STRONG:
        return f"protected: {percent}"
    if protection >= PARTIAL:
        return f"partly protected: {percent}"
    if protection >= WEAK:
        return f"weakly protected: {percent}"
    return f"not protected: {percent}"
