"""Protector: plan and surrogates, the artefact that protects new studies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import NoChange, NoForeground, NoLabel, PlanError
from salm_dicom.foreground import Outline, outline
from salm_dicom.perturb import Epsilon, Limits, perturb
from salm_dicom.plan import ProtectionPlan, intensity_range
from salm_dicom.protector.protected import Protected, each
from salm_dicom.quantity import warnings_of
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers, Volume

if TYPE_CHECKING:  # torch takes longer to import than most series to protect without it
    from salm_dicom.perturb.loss import Loss
    from salm_dicom.protector.surrogate import Surrogate

# Voxels that go through a method together; bounds memory whatever the length of a series.
VOXELS_AT_ONCE = 2**20


@dataclass(frozen=True, kw_only=True)
class Protector:
    """Protects volumes; deterministic: same protector, series and label give the same delta.

    It is secret: whoever holds it can remove the protection.

    Parameters
    ----------
    plan
        The settings.
    classes
        Labels in the order of the surrogates' outputs; empty for methods without a surrogate.
    surrogates
        By extent, `slice` and `volume`.
    report
        Numbers of the fit, for people.
    """

    plan: ProtectionPlan
    classes: tuple[str, ...] = ()
    surrogates: Mapping[str, Surrogate] = field(default_factory=dict)
    report: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of plan and weights; part of every UID that is made with this protector."""
        surrogates = [[extent, *one.digest] for extent, one in sorted(self.surrogates.items())]
        return self.plan.digest(json.dumps([list(self.classes), surrogates]))

    def apply(self, volume: Volume, *, series_uid: str, label: str | None = None) -> Protected:
        """Return the perturbation for one volume.

        Parameters
        ----------
        volume
            Source; nothing in it is changed.
        series_uid
            Goes into the random seed, so that series differ and order does not matter.
        label
            One of `classes`; needed by methods with a surrogate.

        Raises
        ------
        NoLabel, NoForeground, NoChange, PlanError
        """
        if volume.parts:
            found = each(
                volume,
                lambda one, n: self.apply(one, series_uid=f"{series_uid}/{n}", label=label),
            )
            return replace(found, record=replace(found.record, series_uid=series_uid))
        anatomy = outline(volume.pixels, volume.modality, volume.photometric)
        if not anatomy.body.any():
            raise NoForeground("no anatomy was found: the image is constant, air or padding")
        target = self._target(label)
        extent, warning = self._extent(volume)
        window = intensity_range(self.plan, volume, anatomy.at)
        method = self.plan.build_method()
        origin = f"label/{label}" if method.class_wise else series_uid
        with _torch_settings() if method.uses_torch else nullcontext():
            delta, inside = self._delta(volume, anatomy, window, extent, target, origin)
        if not inside:
            raise NoForeground("no anatomy was found: every voxel is clipped or padding")
        record = replace(
            self._record(volume, window, extent, delta, inside, series_uid, warning),
            digest=self.digest_for(label),
        )
        if not record.largest_change_stored:
            raise NoChange("the method found nothing to change within the budget")
        return Protected(source=volume, delta=delta, outline=anatomy, record=record)

    def _extent(self, volume: Volume) -> tuple[str, tuple[str, ...]]:
        if self.plan.extent == "volume":
            if volume.irregular:
                return "slice", (f"W_SPACING: {volume.irregular}; protected slice by slice",)
            if volume.pixels.values.shape[0] == 1:
                return "slice", ("W_SPACING: a single slice; protected as a slice",)
        return self.plan.extent, ()

    def digest_for(self, label: str | None) -> str:
        """Return the digest of everything that decides the pixels, the label included."""
        target = self._target(label)
        if target is None:
            return self.digest
        return hashlib.sha256(f"{self.digest}/{target}".encode()).hexdigest()

    def _target(self, label: str | None) -> int | None:
        if not self.plan.needs_surrogate:
            return None
        if label is None:
            raise NoLabel(f"method {self.plan.method} needs a label for each series")
        if label not in self.classes:
            raise NoLabel(f"the label is not one of the {len(self.classes)} the protector knows")
        return self.classes.index(label)

    def _place(self, target: int | None) -> int:
        """Return the place of a label among all; the seed decides which one comes first."""
        return 0 if target is None else (target + self.plan.seed) % len(self.classes)

    def _delta(
        self,
        volume: Volume,
        anatomy: Outline,
        window: tuple[float, float],
        extent: str,
        target: int | None,
        origin: str,
    ) -> tuple[Integers, int]:
        """Return the change of every voxel, and how many voxels lie in the foreground.

        Parameters
        ----------
        origin
            Where random numbers come from, beside the plan's seed.
        """
        pixels, inside = volume.pixels, 0
        budget = budgets(self.plan, volume, window)
        low, high = anatomy.extremes
        delta = np.empty(pixels.values.shape, dtype=np.min_scalar_type(-int(budget.max()) - 1))
        method = self.plan.build_method(self._place(target), self.plan.region_edge(volume))
        together = slices_at_once(delta.shape) if method.needs_gradient else 1
        step = together if extent == "slice" else len(delta)
        for first in range(0, len(delta), step):
            part = slice(first, first + step)
            stored = pixels.values[part]
            mask = np.stack([anatomy.at(first + i) for i in range(len(stored))])
            if pixels.room is not None:
                mask &= pixels.room[part] >= budget[part][:, None, None]
            inside += int(np.count_nonzero(mask))
            x = samples(stored.astype(np.float32) if method.needs_gradient else stored, extent)
            limits = Limits(
                budget=per_slice(budget[part], extent), low=low, high=high, padding=pixels.padding
            )
            # one pattern for all slices of a label
            place = origin if method.class_wise else f"{origin}/{first}"
            loss = self._loss(
                extent,
                target,
                slope=per_slice(pixels.slope[part], extent),
                intercept=per_slice(pixels.intercept[part], extent),
                window=window,
            )
            found = perturb(
                method, x, loss, samples(mask, extent), limits, _seed(self.plan.seed, place),
                zero_mean=self.plan.zero_mean,
            )  # fmt: skip
            delta[part] = found.reshape(delta[part].shape)
        return delta, inside

    def _loss(
        self,
        extent: str,
        target: int | None,
        *,
        slope: NDArray[np.float32],
        intercept: NDArray[np.float32],
        window: tuple[float, float],
    ) -> Loss | None:
        """Return the surrogate's summed cross-entropy at stored values, where one is needed."""
        method = self.plan.build_method()
        if target is None or not method.needs_gradient:
            return None
        wanted = (target + method.label_shift) % len(self.classes)
        if extent not in self.surrogates:
            raise PlanError(f"the protector has no surrogate for {extent} extent; fit it again")
        return self.surrogates[extent].loss(slope, intercept, window, wanted)

    def _record(
        self,
        volume: Volume,
        window: tuple[float, float],
        extent: str,
        delta: Integers,
        inside: int,
        series_uid: str,
        warnings: tuple[str, ...],
    ) -> ProtectionRecord:
        budget = budgets(self.plan, volume, window)
        by_slice = np.array([max(int(one.max()), -int(one.min())) for one in delta])
        steps = np.abs(volume.pixels.slope)
        changed = sum(int(np.count_nonzero(one)) for one in delta)
        return ProtectionRecord(
            method=self.plan.method,
            extent=extent,
            epsilon=float((budget * steps).max() / (window[1] - window[0])),
            budget_modality=float((budget * steps).max()),
            budget_stored=int(budget.max()),
            units="HU" if volume.modality == "CT" else "modality units",
            intensity_range=window,
            rho=self.plan.build_method().rho,
            foreground_share=inside / delta.size,
            changed_share=changed / inside,
            largest_change_stored=int(by_slice.max()),
            largest_change_modality=float((by_slice * steps).max()),
            digest=self.digest,
            series_uid=series_uid,
            warnings=(*warnings, *warnings_of(volume.quantity)),
            quantity=volume.quantity,
        )


def budgets(plan: ProtectionPlan, volume: Volume, window: tuple[float, float]) -> Integers:
    """Return the budget of each slice in stored units."""
    epsilon, width = Epsilon.parse(plan.epsilon), window[1] - window[0]
    by_slope = {s: epsilon.stored_units(width, s) for s in set(volume.pixels.slope.tolist())}
    return np.array([by_slope[s] for s in volume.pixels.slope.tolist()], dtype=np.int64)


def slices_at_once(shape: tuple[int, ...]) -> int:
    """Return how many slices go through a method together: 4 of 512 x 512, more of smaller ones.

    Parameters
    ----------
    shape
        Ends in rows and columns.
    """
    return max(VOXELS_AT_ONCE // (shape[-2] * shape[-1]), 1)


def samples(values: NDArray[Any], extent: str) -> NDArray[Any]:
    """Return (slices, rows, columns) as (samples, 1, [slices,] rows, columns)."""
    return values[:, None] if extent == "slice" else values[None, None]


def per_slice(numbers: NDArray[Any], extent: str) -> NDArray[np.float32]:
    """Return one number for each slice, shaped to broadcast over its voxels."""
    found = numbers.astype(np.float32)
    return found[:, None, None, None] if extent == "slice" else found[None, None, :, None, None]


def _torch_settings() -> AbstractContextManager[None]:
    from salm_dicom.learning import reproducible

    return reproducible()


def _seed(seed: int, place: str) -> int:
    # torch's generator looks at 32 bits of its seed only
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4])
