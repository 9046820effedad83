"""Check: a measured number beside its limit, and what was missed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from salm_dicom.errors import PlanError
from salm_dicom.fidelity.limits import Limit, Profile
from salm_dicom.fidelity.measures import MEASURES
from salm_dicom.fidelity.subject import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One measured number, the limit that it must keep, and whether it does.

    `sign` stands between the two where the limit is missed; `text` says so in a sentence. `limit`
    is what is wanted where there is no stricter one; then `is_missed` is never true. `wanted` is
    what is wanted beside a limit.
    """

    row: int
    name: str
    value: float
    unit: str
    where: str
    at: str
    sign: str
    limit: float
    wanted: float | None
    is_missed: bool
    is_wanted: bool
    text: str

    @property
    def shown(self) -> str:
        """Return the value with its unit, as people read it."""
        if math.isinf(self.value):
            return "no change"
        return f"{self.value:{MEASURES[self.name].form}} {self.unit}".strip()

    @property
    def shown_limit(self) -> str:
        """Return the limit with its unit, as people read it."""
        least = "at least" if self.sign == "<" else "at most"
        better = "" if self.wanted is None else f", {self.wanted:.4g} wanted"
        return f"{least} {self.limit:.4g} {self.unit}".strip() + better

    @property
    def beyond(self) -> tuple[bool, bool, float]:
        """Return how bad it is, to be compared with the same number measured elsewhere."""
        distance = self.value - self.limit
        return self.is_missed, not self.is_wanted, distance if self.sign == ">" else -distance


def checks(readings: Iterable[Reading], profile: Profile) -> list[Check]:
    """Return every number that has a limit, with the limit for this kind of image.

    Raises
    ------
    PlanError
        A limit is in another unit than the number.
    """
    found = []
    for reading in readings:
        limit = profile.limits.get(reading.name)
        if limit is not None:
            found.append(_check(reading, limit, profile))
    return found


def missed(found: Iterable[Check]) -> list[str]:
    """Return a sentence for each limit that is missed; an empty list is a pass."""
    return [one.text for one in found if one.is_missed]


def _check(reading: Reading, limit: Limit, profile: Profile) -> Check:
    if limit.unit != reading.unit:
        raise PlanError(
            f"limits: {reading.name} of [{profile.name}] is in {limit.unit!r}, "
            f"and the images are measured in {reading.unit!r}"
        )
    measure = MEASURES[reading.name]
    sign = "<" if measure.is_floor else ">"
    shown = next(one for one in (limit.value, limit.wanted) if one is not None)
    where = "".join(f", {text}" for text in (reading.where, reading.at) if text)
    value = f"{reading.value:{measure.form}} {reading.unit}".strip()
    return Check(
        row=measure.row,
        name=reading.name,
        value=reading.value,
        unit=reading.unit,
        where=reading.where,
        at=reading.at,
        sign=sign,
        limit=shown,
        wanted=None if limit.wanted == shown else limit.wanted,
        is_missed=_is_beyond(reading.value, limit.value, measure.is_floor),
        is_wanted=not _is_beyond(reading.value, limit.wanted, measure.is_floor),
        text=f"{measure.short} {value} {sign} {shown:g} {reading.unit}".strip() + where,
    )


def _is_beyond(value: float, limit: float | None, is_floor: bool) -> bool:
    """Return whether a value is beyond a limit, if there is one; what is no number always is."""
    if limit is None:
        return False
    return not (value >= limit if is_floor else value <= limit)
