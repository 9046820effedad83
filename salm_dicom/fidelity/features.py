"""Radiomics: how many first-order features of a region stay what they were, by MIRP (IBSI).

Needs the extra `radiomics`. MIRP's licence is EUPL-1.2; nothing of it is in this package. Shape is
not counted: it comes from the outline, which no change of a voxel moves.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from salm_dicom.errors import Unmeasurable
from salm_dicom.fidelity.subject import Reading, Region, Subject
from salm_dicom.volume import Booleans

# Families whose features need nothing but the values of the region, and those of its texture.
_FIRST_ORDER, _TEXTURE = ("statistics", "intensity_histogram"), ("glcm", "glrlm", "glszm", "ngtdm")

_PREFIXES = ("stat_", "ih_", "cm_", "rlm_", "szm_", "ngt_")
_BINS = 32
_CLOSE = 0.10
# MIRP knows these; to values of any other, as to MR, it does nothing of its own.
_MODALITIES = {"CT": "ct", "PT": "pet"}
_FEWEST = 27


def radiomics(subject: Subject) -> Iterator[Reading]:
    """Yield the share of features within 10 %, in percent, for each region or the foreground.

    `features` is of first-order features, `texture_features` of texture in 32 bins.

    References
    ----------
    Zwanenburg et al., *The Image Biomarker Standardization Initiative*, Radiology 295 (2020).
    """
    regions = subject.regions or (Region(name="foreground", where=subject.mask),)
    measured = False
    for region in regions:
        where = region.where & subject.mask
        if np.count_nonzero(where) < _FEWEST:
            continue
        measured = True
        before, after = (
            np.stack([at(index) for index in range(len(subject))])
            for at in (subject.source_at, subject.protected_at)
        )
        place = region.name if region.name == "foreground" else f"region {region.name}"
        for name, families in (("features", _FIRST_ORDER), ("texture_features", _TEXTURE)):
            numbers = [features(one, where, subject.modality, families) for one in (before, after)]
            yield Reading(name=name, value=_share_kept(*numbers), unit="%", where=place)
    if not measured:
        raise Unmeasurable(f"no region has {_FEWEST} voxels of foreground")


def features(
    values: NDArray[np.float32], where: Booleans, modality: str, families: tuple[str, ...]
) -> dict[str, float]:
    """Return the features of a region by their IBSI names, computed by MIRP.

    Raises
    ------
    Unmeasurable
        MIRP is not installed, or refuses the region.
    """
    try:
        from mirp import extract_features
    except ImportError as error:
        raise Unmeasurable("MIRP is not installed: pip install 'salm_dicom[radiomics]'") from error
    box = _box(where)
    try:
        with _silent():
            (found,) = extract_features(
                image=values[box].astype(np.float64),
                mask=where[box],
                image_modality=_MODALITIES.get(modality, "mr"),
                base_feature_families=list(families),
                base_discretisation_method="fixed_bin_number",
                base_discretisation_n_bins=_BINS,
                by_slice=values.shape[0] == 1,
            )
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise Unmeasurable(f"MIRP refuses a region ({type(error).__name__})") from error
    row = found.iloc[0]
    names = [str(name) for name in found.columns if str(name).startswith(_PREFIXES)]
    return {name: float(row[name]) for name in names if np.isfinite(row[name])}


@contextmanager
def _silent() -> Iterator[None]:
    """Keep MIRP from setting up the logging of the whole process, and from what it would say."""
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)


def _share_kept(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the percentage of features within 10 % of what they were."""
    kept = [
        abs(after.get(name, np.inf) - value) <= _CLOSE * abs(value)
        for name, value in before.items()
    ]
    return 100 * float(np.mean(kept)) if kept else 0.0


def _box(where: Booleans) -> tuple[slice, ...]:
    """Return the smallest box around a region, with a voxel of room."""
    edges = []
    for axis in range(3):
        places = np.flatnonzero(where.any(axis=tuple(a for a in range(3) if a != axis)))
        edges.append(slice(max(0, int(places[0]) - 1), int(places[-1]) + 2))
    return tuple(edges)
