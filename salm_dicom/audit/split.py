"""Split: which patients a victim learns from, chooses its epoch on, and is tested on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

from salm_dicom.errors import TooFew

SIDES = ("train", "validation", "test")
_HELD_OUT = 0.2
# Patients of a label: one to learn from, one to choose on, one to test on.
FEWEST = len(SIDES)


def split(labels_of: Mapping[str, frozenset[str]], needed: int = 2) -> dict[str, str]:
    """Return the side of every patient: 60 % train, 20 % validation and 20 % test of each label.

    Deterministic, whatever the order of the patients. A patient with several labels counts for
    each of them; the rarest label is dealt out first, patients without any at the end.

    Parameters
    ----------
    labels_of
        Labels of each patient's images.
    needed
        How many labels there must be.

    Raises
    ------
    TooFew
        There are not enough labels, or a label has too few patients for three sides.

    References
    ----------
    Sechidis et al., *On the Stratification of Multi-label Data*, ECML PKDD 2011.
    """
    patients = Counter(label for labels in labels_of.values() for label in labels)
    if len(patients) < needed:
        raise TooFew(
            f"{len(labels_of)} patients with {len(patients)} different labels were found; an audit "
            f"needs at least {needed}"
        )
    wanted = {label: _quotas(count) for label, count in patients.items()}
    order = sorted(labels_of, key=_by_chance)
    sides: dict[str, str] = {}
    for rare in sorted(patients, key=lambda label: (patients[label], label)):
        for patient in order:
            if patient not in sides and rare in labels_of[patient]:
                sides[patient] = _side(wanted, rare, labels_of[patient])
    rest = [patient for patient in order if patient not in sides]
    held_out = round(_HELD_OUT * len(rest))
    for place, patient in enumerate(rest):
        sides[patient] = SIDES[1 + (place >= held_out)] if place < 2 * held_out else SIDES[0]
    _check(labels_of, sides, patients)
    return sides


def by_chance(salt: object, patient: str) -> bytes:
    """Return a number to sort patients by: in no order that means anything, always the same."""
    return hashlib.sha256(f"{salt}/{patient}".encode("utf-8", "surrogateescape")).digest()


def _by_chance(patient: str) -> bytes:
    return by_chance("split", patient)


def _quotas(patients: int) -> dict[str, int]:
    held_out = max(1, round(_HELD_OUT * patients))
    return {"train": patients - 2 * held_out, "validation": held_out, "test": held_out}


def _side(wanted: dict[str, dict[str, int]], rare: str, labels: Iterable[str]) -> str:
    """Return the side that lacks most patients of a label, and take one off what is wanted."""
    side = max(SIDES, key=lambda s: (wanted[rare][s], sum(wanted[one][s] for one in labels)))
    for label in labels:
        wanted[label][side] -= 1
    return side


def _check(
    labels_of: Mapping[str, frozenset[str]], sides: Mapping[str, str], patients: Counter[str]
) -> None:
    there = {(label, sides[patient]) for patient in sides for label in labels_of[patient]}
    lacking = sorted(label for label in patients if any((label, s) not in there for s in SIDES))
    if lacking:
        counts = ", ".join(f"{label}: {count}" for label, count in sorted(patients.items()))
        raise TooFew(
            f"too few patients of {', '.join(lacking)} ({counts}): every label needs at least "
            f"{FEWEST} patients, one each to train, to validate and to test on. Add patients, "
            "or take the label out of the labels file"
        )
