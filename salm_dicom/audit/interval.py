"""Interval: how far a score could lie from the truth, by drawing runs and test patients again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from salm_dicom.audit.score import balanced_share

_DRAWS = 1000
# Of the draws lie between an interval's ends.
_INSIDE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, drawn: Tensor) -> Interval:
        """Return the interval of draws, (1 + n,); the first is the value itself."""
        ends = torch.tensor([(1 - _INSIDE) / 2, (1 + _INSIDE) / 2], dtype=drawn.dtype)
        low, high = torch.quantile(drawn[1:], ends).tolist()
        return cls(value=float(drawn[0]), low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Draws of test patients with replacement, label by label; the first is all as they are.

    Images of one patient come and go together: they say the same thing twice.

    Parameters
    ----------
    labels, patients
        Of the test images, (n,) int64.
    """

    labels: Tensor
    patients: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """How often each image is drawn, (1 + 1000, n), float64."""
        rng = torch.Generator().manual_seed(0)
        out = torch.ones((1 + _DRAWS, len(self.labels)), dtype=torch.float64)
        dealt: set[int] = set()
        for label in sorted(set(self.labels.tolist())):
            # a patient with several labels is drawn with the first of them
            found = sorted(set(self.patients[self.labels == label].tolist()) - dealt)
            dealt.update(found)
            if found:
                drawn = torch.randint(len(found), (_DRAWS, len(found)), generator=rng)
                times = torch.zeros((_DRAWS, len(found)), dtype=torch.float64)
                times.scatter_add_(1, drawn, torch.ones_like(times))
                for number, patient in enumerate(found):
                    out[1:, self.patients == patient] = times[:, number, None]
        return out

    @property
    def fewest(self) -> int:
        """How many patients the label has that has fewest."""
        labels = set(self.labels.tolist())
        return min(len(set(self.patients[self.labels == label].tolist())) for label in labels)

    def score(self, correct: Tensor) -> float:
        """Return the balanced accuracy of one run on the images as they are."""
        return balanced_share(correct, self.labels)

    def scores(self, correct: Tensor) -> Tensor:
        """Return the mean balanced accuracy of several runs in every draw, (1 + 1000,).

        The runs (victims and seeds) are drawn again, too.

        Parameters
        ----------
        correct
            (runs, n), True where a run recognised an image.
        """
        of_label = functional.one_hot(self.labels).double()
        recall = torch.stack(
            [
                (self.weights @ (one[:, None] * of_label)) / (self.weights @ of_label)
                for one in correct.double()
            ],
            dim=1,
        )
        of_run = recall.nanmean(2)
        rng = torch.Generator().manual_seed(1)
        runs = torch.randint(len(correct), of_run.shape, generator=rng)
        runs[0] = torch.arange(len(correct))
        return of_run.gather(1, runs).mean(1)
