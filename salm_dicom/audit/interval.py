"""Interval: how far a score could lie from the truth, by drawing runs and test patients again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from salm_dicom.audit.tasks import TASKS, Task, task_of

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
    labels
        Of the test images, see `Images`.
    patients
        Number of each image's patient, (n,) int64.
    """

    labels: Tensor
    patients: Tensor

    @property
    def task(self) -> Task:
        """What is learned."""
        return TASKS[task_of(self.labels)]

    @cached_property
    def groups(self) -> list[list[int]]:
        """The patients that show each class; one of several classes is in several groups."""
        shows = self.task.shows(self.labels).T
        return [sorted(set(self.patients[one].tolist())) for one in shows if one.any()]

    @cached_property
    def weights(self) -> Tensor:
        """How often each image is drawn, (1 + 1000, n), float64."""
        rng = torch.Generator().manual_seed(0)
        out = torch.ones((1 + _DRAWS, len(self.labels)), dtype=torch.float64)
        dealt: set[int] = set()
        for group in (*self.groups, sorted(set(self.patients.tolist()))):
            # a patient with several labels is drawn with the first of them, one without at the end
            found = [patient for patient in group if patient not in dealt]
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
        return min(map(len, self.groups))

    def score(self, evidence: Tensor) -> float:
        """Return the score of one run on the images as they are."""
        return self.task.scored(evidence, self.labels)

    def scores(self, evidence: Tensor) -> Tensor:
        """Return the mean score of several runs in every draw, (1 + 1000,).

        The runs (victims and seeds) are drawn again, too.

        Parameters
        ----------
        evidence
            (runs, n, ...), what each run made of each image, see `Task`.
        """
        drawn = [self.task.drawn(one, self.labels, self.weights) for one in evidence]
        of_run = torch.stack(drawn, dim=1)
        rng = torch.Generator().manual_seed(1)
        runs = torch.randint(len(evidence), of_run.shape, generator=rng)
        runs[0] = torch.arange(len(evidence))
        return of_run.gather(1, runs).mean(1)
