"""Protector: plan and surrogates, the artefact that protects new studies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from salm_dicom.errors import NoChange, NoForeground, NoLabel, PlanError
from salm_dicom.foreground import Outline, outline
from salm_dicom.intensity import budgets, intensity_range, region_edge
from salm_dicom.perturb import Limits, Method, perturb
from salm_dicom.plan import ProtectionPlan
from salm_dicom.preprocessing import Preprocessing
from salm_dicom.protector.device import other_kind
from salm_dicom.protector.protected import Protected, each
from salm_dicom.protector.samples import per_slice, samples, slices_at_once
from salm_dicom.protector.target import Mask, Target, labelled
from salm_dicom.quantity import warnings_of
from salm_dicom.record import ProtectionRecord
from salm_dicom.volume import Integers, Volume

if TYPE_CHECKING:  # torch takes longer to import than most series to protect without it
    from salm_dicom.perturb.loss import Loss
    from salm_dicom.protector.clusters import Clusters
    from salm_dicom.protector.surrogate import Surrogate


@dataclass(frozen=True, kw_only=True)
class Protector:
    """Protects volumes; deterministic: same protector, series and label give the same delta.

    It is secret: whoever holds it can remove the protection.

    Parameters
    ----------
    plan
        The settings.
    classes
        Labels, or classes of masks, in the order of the surrogates' outputs; empty for methods
        without a surrogate.
    surrogates
        By extent, `slice` and `volume`.
    clusters
        What stands in place of labels (plan `label_free`); `classes` are their names.
    report
        Numbers of the fit, for people.
    device
        Where surrogates run, see `device.device_of`; not saved. A GPU adds up in another order,
        so its kind is part of what new UIDs are made from.
    """

    plan: ProtectionPlan
    classes: tuple[str, ...] = ()
    surrogates: Mapping[str, Surrogate] = field(default_factory=dict)
    clusters: Clusters | None = None
    report: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of plan and weights; part of every UID that is made with this protector."""
        surrogates = [[extent, *one.digest] for extent, one in sorted(self.surrogates.items())]
        clusters = [] if self.clusters is None else [self.clusters.digest]
        return self.plan.digest(json.dumps([list(self.classes), surrogates, *clusters]))

    def apply(
        self, volume: Volume, *, series_uid: str, label: str | Mask | None = None
    ) -> Protected:
        """Return the perturbation for one volume.

        Parameters
        ----------
        volume
            Source; nothing in it is changed.
        series_uid
            Goes into the random seed, so that series differ and order does not matter.
        label
            One of `classes`, several with semicolons between them (`multilabel`), or a mask of them
            (`segmentation`); needed by methods with a surrogate, and not looked at where there are
            clusters.

        Raises
        ------
        NoLabel, NoForeground, NoChange, GeometryError, PlanError
        """
        if self.clusters is not None:
            # a file of several volumes: each of them is looked at by itself
            label = self.classes[0] if volume.parts else self.clusters.name_of(volume, self.plan)
        target = self._target(label, volume)
        if volume.parts:
            found = each(volume, lambda one, n: self._apply_part(volume, one, n, series_uid, label))
            record = replace(found.record, series_uid=series_uid, digest=self._digest_of(target))
            return replace(found, record=record)
        anatomy = outline(volume.pixels, volume.modality, volume.photometric)
        if not anatomy.body.any():
            raise NoForeground("no anatomy was found: the image is constant, air or padding")
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
            digest=self._digest_of(target),
        )
        if not record.largest_change_stored:
            raise NoChange("the method found nothing to change within the budget")
        return Protected(source=volume, delta=delta, outline=anatomy, record=record)

    def _apply_part(
        self, volume: Volume, one: Volume, number: int, series_uid: str, label: str | Mask | None
    ) -> Protected:
        """Return the perturbation for one of the volumes of a multi-frame file."""
        part = volume.parts[number - 1]
        mine = label.taken(slice(part.start, part.stop)) if isinstance(label, Mask) else label
        return self.apply(one, series_uid=f"{series_uid}/{number}", label=mine)

    def _extent(self, volume: Volume) -> tuple[str, tuple[str, ...]]:
        if self.plan.extent == "volume":
            if volume.irregular:
                return "slice", (f"W_SPACING: {volume.irregular}; protected slice by slice",)
            if volume.pixels.values.shape[0] == 1:
                return "slice", ("W_SPACING: a single slice; protected as a slice",)
        return self.plan.extent, ()

    def digest_for(self, label: str | None) -> str:
        """Return the digest of everything that decides the pixels, the label included.

        Parameters
        ----------
        label
            One of `classes`, or the digest of a mask.
        """
        if self.clusters is not None:
            return self._digest_of(Target(key=""))
        is_mask = self.plan.needs_masks and label is not None
        return self._digest_of(Target(key=str(label)) if is_mask else self._target(label))

    def _digest_of(self, target: Target | None) -> str:
        if target is None:
            return self.digest
        # pixels decide which cluster is theirs, so it need not be told apart
        key = target.key if self.clusters is None else "label-free"
        about = (self.digest, key, *other_kind(self.device))
        return hashlib.sha256("/".join(about).encode()).hexdigest()

    def _target(self, label: str | Mask | None, volume: Volume | None = None) -> Target | None:
        if not self.plan.needs_surrogate:
            return None
        if self.plan.needs_masks:
            if not isinstance(label, Mask) or volume is None:
                raise NoLabel(
                    "a protector for segmentation needs a mask for each series (SALMd: mask_key)"
                )
            return Target.of(label, volume, self.classes)
        if not isinstance(label, str):
            raise NoLabel(f"method {self.plan.method} needs a label for each series")
        found = labelled(label, self.classes, self.plan.objective)
        return Target(key="".join(map(str, np.atleast_1d(found).tolist())), label=found)

    def _place(self, target: Target | None) -> int:
        """Return the place of a label among all; the seed decides which one comes first."""
        return 0 if target is None else (target.place + self.plan.seed) % len(self.classes)

    def _delta(
        self,
        volume: Volume,
        anatomy: Outline,
        window: tuple[float, float],
        extent: str,
        target: Target | None,
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
        method = self.plan.build_method(self._place(target), region_edge(self.plan, volume))
        near = None if target is None else target.allowed(self.plan, volume)
        step = self._slices_at_once(delta.shape, method) if extent == "slice" else len(delta)
        for first in range(0, len(delta), step):
            part = slice(first, min(first + step, len(delta)))
            stored = pixels.values[part]
            mask = np.stack([anatomy.at(first + i) for i in range(len(stored))])
            if pixels.room is not None:
                mask &= pixels.room[part] >= budget[part][:, None, None]
            inside += int(np.count_nonzero(mask))
            x = samples(stored.astype(np.float32) if method.needs_gradient else stored, extent)
            most = per_slice(budget[part], extent)
            if near is not None:
                most = most * samples(near[part], extent)
            limits = Limits(budget=most, low=low, high=high, padding=pixels.padding)
            # one pattern for all slices of a label
            place = origin if method.class_wise else f"{origin}/{first}"
            loss = self._loss(volume, part, extent, target, window)
            found = perturb(
                method, x, loss, samples(mask, extent), limits, seed_of(self.plan.seed, place),
                zero_mean=self.plan.zero_mean,
            )  # fmt: skip
            delta[part] = found.reshape(delta[part].shape)
        return delta, inside

    def _slices_at_once(self, shape: tuple[int, ...], method: Method) -> int:
        """Return how many slices go through the method together."""
        if not method.needs_gradient:
            return 1
        surrogate = self.surrogates.get("slice")
        return slices_at_once(shape, surrogate.spec.values if surrogate else 1)

    def _loss(
        self,
        volume: Volume,
        part: slice,
        extent: str,
        target: Target | None,
        window: tuple[float, float],
    ) -> Loss | None:
        """Return the surrogate's summed loss at stored values, where one is needed."""
        method = self.plan.build_method()
        if target is None or not method.needs_gradient:
            return None
        if extent not in self.surrogates:
            raise PlanError(f"the protector has no surrogate for {extent} extent; fit it again")
        surrogate = self.surrogates[extent]
        return surrogate.loss(
            per_slice(volume.pixels.slope[part], extent),
            per_slice(volume.pixels.intercept[part], extent),
            window,
            target.wanted(part, extent, method.label_shift, surrogate.spec.outputs),
            self.device,
            Preprocessing.of(self.plan.preprocessing, volume.affine),
            by_patch=self.plan.patches and extent == "volume",
        )

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


def _torch_settings() -> AbstractContextManager[None]:
    from salm_dicom.learning import reproducible

    return reproducible()


def seed_of(seed: int, place: str) -> int:
    """Return the seed of what is drawn at one place, which no other draws change, 0 to 2**32 - 1.

    torch's generator looks at 32 bits of its seed only.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{place}".encode()).digest()[:4])
