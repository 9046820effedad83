"""Makes small volumes and protectors in code, for tests that need no files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from salm_dicom.networks import NetworkSpec
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Mask, Protector
from salm_dicom.protector.surrogate import Surrogate, spec_of
from salm_dicom.volume import Integers, StoredPixels, Volume
from tests.synthetic import SeriesRecipe, stored_slices

AFFINE = np.diag([-0.75, -0.75, 2.0, 1.0])
CLASSES = ("abdomen", "chest")


def stored(
    values: Integers,
    *,
    slope: float = 1.0,
    intercept: float = 0.0,
    bits_stored: int | None = None,
    padding: tuple[int, int] | None = None,
) -> StoredPixels:
    """Return stored values, (slices, rows, columns), with one mapping for all slices."""
    return StoredPixels(
        values=values,
        slope=np.full(len(values), slope),
        intercept=np.full(len(values), intercept),
        bits_stored=bits_stored or values.dtype.itemsize * 8,
        signed=values.dtype.kind == "i",
        padding=padding,
    )


def phantom_volume(irregular: str = "", **recipe: Any) -> Volume:
    """Return the volume that `SeriesRecipe(**recipe)` describes."""
    wanted = SeriesRecipe(**recipe)
    is_ct = wanted.modality == "CT"
    return Volume(
        pixels=stored(
            np.stack(list(stored_slices(wanted))),
            slope=wanted.slope if is_ct else 1.0,
            intercept=wanted.intercept if is_ct else 0.0,
            bits_stored=wanted.bits_stored,
            padding=None if wanted.padding is None else (wanted.padding, wanted.padding),
        ),
        affine=AFFINE,
        modality=wanted.modality,
        photometric=wanted.photometric,
        irregular=irregular,
    )


def untrained_protector(**plan: Any) -> Protector:
    """Return a protector whose surrogates have random weights: quick, and as lawful as any."""
    wanted = ProtectionPlan(
        **{"method": "salm", "slice_size": (32, 32), "volume_size": (8, 32, 32)} | plan
    )
    if not wanted.needs_surrogate:
        return Protector(plan=wanted)
    surrogates = {
        extent: _untrained(replace(spec_of(wanted, extent, len(CLASSES)), width=4))
        for extent in ("slice", "volume")
        if extent in ("slice", wanted.extent)
    }
    return Protector(plan=wanted, classes=CLASSES, surrogates=surrogates)


def mask_on(volume: Volume) -> Mask:
    """Return a mask of two classes that lie apart in the middle of a phantom; the last has none."""
    slices, rows, columns = volume.pixels.values.shape
    row, column = np.arange(rows)[:, None] / rows, np.arange(columns) / columns
    regions = {}
    for name, at in zip(CLASSES, (0.38, 0.62), strict=True):
        disc = (row - 0.5) ** 2 + (column - at) ** 2 < 0.08**2
        regions[name] = np.stack([disc & (index < max(slices - 1, 1)) for index in range(slices)])
    return Mask.of(regions, volume.pixels.values.shape)


def _untrained(spec: NetworkSpec) -> Surrogate:
    return Surrogate(spec=spec, weights=spec.build(seed=1).state_dict())
