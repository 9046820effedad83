"""Dataset: clean and protected images of the same slices, on three sides that share no patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from salm_dicom.audit.images import Images
from salm_dicom.audit.split import FEWEST, SIDES, split
from salm_dicom.audit.subjects import Sample, Subject, View, samples_of
from salm_dicom.audit.tasks import TASKS, Task, task_of
from salm_dicom.errors import InputError, PlanError, TooFew

# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The images of one side, in the same order clean and protected.

    Parameters
    ----------
    patients
        Number of each image's patient, (n,) int64, counted over all sides.
    late
        True where the protector was fitted without the image's patient; None: nobody knows.
    """

    clean: Images
    protected: Images
    patients: Tensor
    late: Tensor | None

    @property
    def shows(self) -> Tensor:
        """Which classes each image has, (n, classes)."""
        return TASKS[task_of(self.clean.labels)].shows(self.clean.labels)

    def part(self, chosen: Tensor) -> Side:
        """Return some of the images, by a boolean for each."""
        return Side(
            clean=Images(pixels=self.clean.pixels[chosen], labels=self.clean.labels[chosen]),
            protected=Images(
                pixels=self.protected.pixels[chosen], labels=self.protected.labels[chosen]
            ),
            patients=self.patients[chosen],
            late=None if self.late is None else self.late[chosen],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Three sides, the names of the labels, and which subjects could not be used and why.

    Parameters
    ----------
    rare
        Classes of masks that too few patients show; victims see no class there.
    """

    train: Side
    validation: Side
    test: Side
    classes: tuple[str, ...]
    failed: tuple[tuple[int, str, str], ...] = ()
    rare: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What is learned."""
        return TASKS[task_of(self.test.clean.labels)]

    @property
    def chance(self) -> float:
        """Score of an answer that does not look at the test images."""
        return self.task.chance(self.test.clean.labels)

    def sides(self) -> dict[str, Side]:
        """Return the sides by name."""
        return dict(zip(SIDES, (self.train, self.validation, self.test), strict=True))


def dataset(
    subjects: Sequence[Subject], view: View, progress: Progress = lambda *_: None
) -> Dataset:
    """Return what victims see of the subjects, split by patient.

    Raises
    ------
    TooFew
        Too few patients or labels are left to measure anything.
    """
    found: list[Sample] = []
    failed: list[tuple[int, str, str]] = []
    for index, subject in enumerate(subjects):
        progress("read", index, len(subjects))
        try:
            found += samples_of(subject, view)
        except (InputError, PlanError) as error:
            failed.append((index, error.code, str(error)))
    progress("read", len(subjects), len(subjects))
    shown: dict[str, set[str]] = {}
    for one in found:
        shown.setdefault(one.subject.patient, set()).update(one.shows)
    patients_of = Counter(label for labels in shown.values() for label in labels)
    # of hundreds of organs some are hardly ever in the image; a label is what the operator chose
    is_mask = view.plan.objective == "segmentation"
    rare = {label for label, count in patients_of.items() if is_mask and count < FEWEST}
    classes = tuple(sorted({*patients_of} - rare))
    labels_of = {patient: frozenset(labels - rare) for patient, labels in shown.items()}
    if view.plan.objective == "multilabel":
        labels_of = _with_absent(found, classes)
    with _why(failed):
        if is_mask and not classes:
            raise _none_marked(len(shown), patients_of)
        sides = split(labels_of, needed=1 if is_mask else 2)
    numbers = {patient: number for number, patient in enumerate(sorted(shown))}
    train, validation, test = (
        _side([one for one in found if sides[one.subject.patient] == side], classes, numbers)
        for side in SIDES
    )
    return Dataset(
        train=train,
        validation=validation,
        test=test,
        classes=classes,
        failed=tuple(failed),
        rare=tuple(sorted(rare)),
    )


def _with_absent(found: Sequence[Sample], classes: Sequence[str]) -> dict[str, frozenset[str]]:
    """Return the labels of each patient and those that an image of theirs has not.

    Both must be learned, so both are split alike.
    """
    out: dict[str, frozenset[str]] = {}
    for one in found:
        absent = {f"without {name}" for name in classes if name not in one.shows}
        out[one.subject.patient] = out.get(one.subject.patient, frozenset()) | one.shows | absent
    return out


def _none_marked(patients: int, patients_of: Mapping[str, int]) -> TooFew:
    counts = ", ".join(f"{name}: {count}" for name, count in sorted(patients_of.items()))
    return TooFew(
        f"{patients} patients with masks were found, and no class is marked in {FEWEST} of them "
        f"({counts or 'every mask is empty as victims see it'}); an audit needs at least {FEWEST} "
        "patients of a class, one each to train, to validate and to test on"
    )


@contextmanager
def _why(failed: Sequence[tuple[int, str, str]]) -> Iterator[None]:
    """Say, where patients are too few, why others could not be used."""
    try:
        yield
    except TooFew as error:
        if not failed:
            raise
        (code, reason), count = Counter((code, reason) for _, code, reason in failed).most_common(
            1
        )[0]
        text = f"{len(failed)} series could not be used, {count} of them because: {reason} [{code}]"
        raise TooFew(f"{error}. {text}") from error


def _side(found: Sequence[Sample], classes: Sequence[str], numbers: dict[str, int]) -> Side:
    counts = torch.tensor([len(one.clean) for one in found])

    def each(values: list[int]) -> Tensor:
        return torch.tensor(values).repeat_interleave(counts)

    labels = torch.cat([one.labels(classes) for one in found])
    # a patient of whom the fit saw anything is not late
    known = {one.subject.patient for one in found if one.subject.late is False}
    is_known = all(one.subject.late is not None for one in found)
    late = each([one.subject.patient not in known for one in found]) if is_known else None
    return Side(
        clean=Images(pixels=torch.cat([one.clean for one in found]), labels=labels),
        protected=Images(pixels=torch.cat([one.protected for one in found]), labels=labels),
        patients=each([numbers[one.subject.patient] for one in found]),
        late=late,
    )
