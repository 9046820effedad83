"""Subjects: the series of an audit, and what victims see of each before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salm_dicom.errors import GeometryError, NoForeground
from salm_dicom.foreground import foreground
from salm_dicom.intensity import intensity_range
from salm_dicom.learning import network_input
from salm_dicom.objectives import network_target
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask
from salm_dicom.protector.samples import chosen_slices, per_slice, samples
from salm_dicom.protector.target import check_shape, labelled, names_of
from salm_dicom.volume import StoredPixels, Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One series of a patient, as it is and as it was shared.

    Parameters
    ----------
    patient
        Whose it is; never shown.
    load
        Returns the source and the protected stored values, in the order of its slices.
    label
        What it shows, of objective `multilabel` with semicolons, see `names_of`.
    late
        Whether the protector was fitted without this series; None: nobody knows.
    mask
        Returns its mask, shape of the source (objective `segmentation`).
    """

    patient: str
    load: Callable[[], tuple[Volume, StoredPixels]]
    label: str = ""
    late: bool | None = None
    mask: Callable[[], Mask] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a victim sees a series.

    Parameters
    ----------
    plan
        Its objective, extent, sizes of network inputs and intensity range hold.
    slices
        Most slices of a series, see `chosen_slices` (slice extent).
    """

    plan: ProtectionPlan
    slices: int = 8

    @property
    def size(self) -> tuple[int, ...]:
        """Size of a victim's input."""
        return self.plan.volume_size if self.plan.extent == "volume" else self.plan.slice_size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """What victims see of one volume.

    Parameters
    ----------
    clean, protected
        (images, 1, [slices,] rows, columns), 0 to 1.
    mask
        Numbers of the classes `names`, from 1, 0 for none; shape of `clean`; None of labels.
    """

    subject: Subject
    objective: str
    clean: Tensor
    protected: Tensor
    mask: Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def shows(self) -> frozenset[str]:
        """The classes that occur."""
        if self.mask is None:
            return names_of(self.subject.label, self.objective)
        return frozenset(
            self.names[number - 1] for number in torch.unique(self.mask).tolist() if number
        )

    def labels(self, classes: Sequence[str]) -> Tensor:
        """Return the labels of the images, by their places in `classes`, see `Images`."""
        if self.mask is None:
            label = labelled(self.subject.label, classes, self.objective)
            return torch.from_numpy(np.repeat(label[None], len(self.clean), axis=0))
        places = [1 + classes.index(name) if name in classes else 0 for name in self.names]
        return torch.tensor([0, *places])[self.mask]


def samples_of(subject: Subject, view: View) -> list[Sample]:
    """Return one sample for each volume of a series."""
    names_of(subject.label, view.plan.objective)  # refuses what cannot be read before it is used
    whole, protected = subject.load()
    mask = None if subject.mask is None else subject.mask()
    if mask is not None:
        check_shape(mask, whole)
    found, first = [], 0
    for volume in whole.volumes():
        part = slice(first, first + len(volume.pixels.values))
        first = part.stop
        marked = None if mask is None else mask.taken(part)
        found += _sample(subject, volume, protected.taken(part), marked, view)
    if not found:
        raise NoForeground("no anatomy was found: the image is constant, air or padding")
    return found


def _sample(
    subject: Subject, volume: Volume, protected: StoredPixels, mask: Mask | None, view: View
) -> list[Sample]:
    """Return what victims see of a volume; nothing where there is no anatomy."""
    extent, count = view.plan.extent, len(volume.pixels.values)
    if extent == "volume" and (volume.irregular or count == 1):
        raise GeometryError(
            f"volume extent needs a regular volume; this has {volume.irregular or 'one slice'}. "
            "Audit it with --extent slice"
        )
    anatomy = foreground(volume.pixels, volume.modality, volume.photometric)
    chosen = chosen_slices(anatomy, None if mask is None else mask.values > 0, view.slices)
    if not len(chosen):
        return []
    window = intensity_range(view.plan, volume, anatomy.__getitem__)
    if extent == "volume":
        chosen = np.arange(count)
    clean, changed = (
        _seen(pixels.taken(chosen), window, view) for pixels in (volume.pixels, protected)
    )
    if mask is None:
        objective = view.plan.objective
        return [Sample(subject=subject, objective=objective, clean=clean, protected=changed)]
    values = torch.from_numpy(samples(mask.values[chosen].astype(np.int64), extent))
    return [
        Sample(
            subject=subject,
            objective=view.plan.objective,
            clean=clean,
            protected=changed,
            mask=network_target(values, view.size),
            names=mask.names,
        )
    ]


def _seen(pixels: StoredPixels, window: tuple[float, float], view: View) -> Tensor:
    extent = view.plan.extent
    return network_input(
        torch.from_numpy(samples(pixels.values.astype(np.float32), extent)),
        torch.from_numpy(per_slice(pixels.slope, extent)),
        torch.from_numpy(per_slice(pixels.intercept, extent)),
        window,
        view.size,
    )
