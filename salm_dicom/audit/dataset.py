"""Dataset: clean and protected images of the same slices, on three sides that share no patient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salm_dicom.audit.images import Images
from salm_dicom.audit.split import SIDES, split
from salm_dicom.errors import GeometryError, InputError, NoForeground, PlanError, TooFew
from salm_dicom.foreground import foreground
from salm_dicom.learning import network_input
from salm_dicom.plan import ProtectionPlan, intensity_range
from salm_dicom.protector.samples import per_slice, samples
from salm_dicom.volume import StoredPixels, Volume

# Called with what is going on, how much is done and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One series of a patient, as it is and as it was shared.

    Parameters
    ----------
    patient
        Whose it is; never shown.
    load
        Returns the source and the protected stored values, in the order of its slices.
    late
        Whether the protector was fitted without this series; None: nobody knows.
    """

    patient: str
    label: str
    load: Callable[[], tuple[Volume, StoredPixels]]
    late: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a victim sees a series.

    Parameters
    ----------
    plan
        Its extent, sizes of network inputs and intensity range hold.
    slices
        Most slices of a series, evenly spaced among those with anatomy (slice extent).
    """

    plan: ProtectionPlan
    slices: int = 8

    @property
    def size(self) -> tuple[int, ...]:
        """Size of a victim's input."""
        return self.plan.volume_size if self.plan.extent == "volume" else self.plan.slice_size


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
    """Three sides, the names of the labels, and which subjects could not be used and why."""

    train: Side
    validation: Side
    test: Side
    classes: tuple[str, ...]
    failed: tuple[tuple[int, str, str], ...] = ()

    def sides(self) -> dict[str, Side]:
        """Return the sides by name."""
        return dict(zip(SIDES, (self.train, self.validation, self.test), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    subject: Subject
    clean: Tensor
    protected: Tensor


def dataset(
    subjects: Sequence[Subject], view: View, progress: Progress = lambda *_: None
) -> Dataset:
    """Return what victims see of the subjects, split by patient.

    Raises
    ------
    TooFew
        Too few patients or labels are left to measure anything.
    """
    found: list[_Sample] = []
    failed: list[tuple[int, str, str]] = []
    for index, subject in enumerate(subjects):
        progress("read", index, len(subjects))
        try:
            found += _samples(subject, view)
        except (InputError, PlanError) as error:
            failed.append((index, error.code, str(error)))
    progress("read", len(subjects), len(subjects))
    labels_of: dict[str, set[str]] = {}
    for one in found:
        labels_of.setdefault(one.subject.patient, set()).add(one.subject.label)
    sides = _sides(labels_of, failed)
    classes = tuple(sorted({one.subject.label for one in found}))
    numbers = {patient: number for number, patient in enumerate(sorted(labels_of))}
    train, validation, test = (
        _side([one for one in found if sides[one.subject.patient] == side], classes, numbers)
        for side in SIDES
    )
    return Dataset(
        train=train, validation=validation, test=test, classes=classes, failed=tuple(failed)
    )


def _sides(
    labels_of: Mapping[str, set[str]], failed: Sequence[tuple[int, str, str]]
) -> dict[str, str]:
    """Return the side of each patient, or say what is missing and why it may be."""
    try:
        return split({patient: frozenset(labels) for patient, labels in labels_of.items()})
    except TooFew as error:
        if not failed:
            raise
        (code, reason), count = Counter((code, reason) for _, code, reason in failed).most_common(
            1
        )[0]
        text = f"{len(failed)} series could not be used, {count} of them because: {reason} [{code}]"
        raise TooFew(f"{error}. {text}") from error


def _samples(subject: Subject, view: View) -> list[_Sample]:
    """Return one sample for each volume of a series."""
    whole, protected = subject.load()
    found, first = [], 0
    for volume in whole.volumes():
        part = slice(first, first + len(volume.pixels.values))
        first = part.stop
        seen = _pair(volume, protected.taken(part), view)
        if seen is not None:
            found.append(_Sample(subject=subject, clean=seen[0], protected=seen[1]))
    if not found:
        raise NoForeground("no anatomy was found: the image is constant, air or padding")
    return found


def _pair(volume: Volume, protected: StoredPixels, view: View) -> tuple[Tensor, Tensor] | None:
    """Return what a victim sees of a volume before and after; None where there is no anatomy."""
    extent, count = view.plan.extent, len(volume.pixels.values)
    if extent == "volume" and (volume.irregular or count == 1):
        raise GeometryError(
            f"volume extent needs a regular volume; this has {volume.irregular or 'one slice'}. "
            "Audit it with --extent slice"
        )
    mask = foreground(volume.pixels, volume.modality, volume.photometric)
    chosen = np.flatnonzero(mask.reshape(count, -1).any(axis=1))
    if not len(chosen):
        return None
    window = intensity_range(view.plan, volume, mask.__getitem__)
    if extent == "volume":
        chosen = np.arange(count)
    else:
        spread = np.linspace(0, len(chosen) - 1, min(len(chosen), view.slices))
        chosen = chosen[np.unique(spread.round().astype(int))]
    before, after = (
        _seen(pixels.taken(chosen), window, view) for pixels in (volume.pixels, protected)
    )
    return before, after


def _seen(pixels: StoredPixels, window: tuple[float, float], view: View) -> Tensor:
    extent = view.plan.extent
    return network_input(
        torch.from_numpy(samples(pixels.values.astype(np.float32), extent)),
        torch.from_numpy(per_slice(pixels.slope, extent)),
        torch.from_numpy(per_slice(pixels.intercept, extent)),
        window,
        view.size,
    )


def _side(found: Sequence[_Sample], classes: Sequence[str], numbers: dict[str, int]) -> Side:
    counts = torch.tensor([len(one.clean) for one in found])

    def each(values: list[int]) -> Tensor:
        return torch.tensor(values).repeat_interleave(counts)

    labels = each([classes.index(one.subject.label) for one in found])
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
