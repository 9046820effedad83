"""Limits that a protected volume must keep, from TOML, for each kind of image."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from salm_dicom.errors import PlanError
from salm_dicom.fidelity.measures import MEASURES
from salm_dicom.fidelity.subject import Window

_ALL = "all"
_PROFILE_KEYS = ("modalities", "body_parts", "windows", "jpeg2000_ratio", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The value that a number must keep to, and the better one that is wanted.

    Parameters
    ----------
    value
        None where missing what is wanted is no error.
    wanted
        None where nothing better is asked for.
    unit
        Unit of both.
    """

    value: float | None = None
    wanted: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Limits of one kind of image.

    Parameters
    ----------
    modalities, body_parts
        What it is for.
    windows
        Clinical windows; without any it is the intensity range.
    ratio
        JPEG 2000 compression that such images are compared with.
    """

    name: str
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    ratio: float = 6.0
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits for every kind of image; by default those that the package ships."""

    profiles: tuple[Profile, ...] = field(default_factory=lambda: _profiles(_shipped()))

    @classmethod
    def none(cls) -> Limits:
        """Return limits that nothing can miss."""
        return cls(profiles=tuple(replace(one, limits={}) for one in cls().profiles))

    @classmethod
    def read(cls, path: Path) -> Limits:
        """Return the shipped limits with those of a TOML file in their place.

        Raises
        ------
        PlanError
            The file cannot be read, or has a table, key, unit or value that means nothing.
        """
        try:
            text = path.read_text(encoding="utf-8")
            asked = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise PlanError(f"the limits cannot be read ({type(error).__name__})") from error
        except tomllib.TOMLDecodeError as error:
            raise PlanError(f"the limits are no TOML: {error}") from error
        raw = _shipped()
        for name, table in asked.items():
            if name not in raw:
                known = ", ".join(raw)
                raise PlanError(f"limits: there is no kind of image [{name}]; known are {known}")
            raw[name] = _merged(name, raw[name], table)
        return cls(profiles=_profiles(raw))

    def with_value(self, name: str, value: float, modality: str | None = None) -> Limits:
        """Return limits with another value for one number, of one modality or of all."""

        def changed(profile: Profile) -> Profile:
            if modality is not None and modality not in profile.modalities:
                return profile
            before = profile.limits[name]
            return replace(profile, limits={**profile.limits, name: replace(before, value=value)})

        return Limits(profiles=tuple(changed(one) for one in self.profiles))

    def profile(self, modality: str, body_part: str = "") -> Profile:
        """Return the limits of an image: of its modality and body part, if there are such."""
        fitting = [one for one in self.profiles if modality in one.modalities]
        for one in fitting:
            if body_part.strip().upper() in one.body_parts:
                return one
        for one in fitting:
            if not one.body_parts:
                return one
        return next(one for one in self.profiles if one.name == _ALL)


def _shipped() -> dict[str, Any]:
    text = (files("salm_dicom.fidelity") / "limits.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(name: str, shipped: Mapping[str, Any], asked: object) -> dict[str, Any]:
    """Return one table with the asked keys in place of the shipped; limits one by one."""
    if not isinstance(asked, dict) or not isinstance(asked.get("limits", {}), dict):
        raise PlanError(f"limits: [{name}] is no table")
    limits = {**shipped.get("limits", {}), **asked.get("limits", {})}
    return {**shipped, **asked, "limits": limits}


def _profiles(raw: Mapping[str, Any]) -> tuple[Profile, ...]:
    """Return a profile for each table, with what [all] holds where the table says nothing."""
    return tuple(_profile(name, table, raw[_ALL]) for name, table in raw.items())


def _profile(name: str, table: Mapping[str, Any], common: Mapping[str, Any]) -> Profile:
    _check_keys(f"[{name}]", table, _PROFILE_KEYS)
    own = {key: _limit(name, key, one) for key, one in table.get("limits", {}).items()}
    shared = {key: _limit(_ALL, key, one) for key, one in common["limits"].items()}
    return Profile(
        name=name,
        modalities=_texts(name, table.get("modalities", [])),
        body_parts=_texts(name, table.get("body_parts", [])),
        windows=_windows(name, table.get("windows", {})),
        ratio=_ratio(name, table.get("jpeg2000_ratio", common["jpeg2000_ratio"])),
        limits={**shared, **own},
    )


def _limit(profile: str, name: str, raw: object) -> Limit:
    place = f"{name} of [{profile}]"
    if name not in MEASURES:
        raise PlanError(f"limits: {place} is unknown; known are {', '.join(MEASURES)}")
    if not isinstance(raw, dict):
        raise PlanError(f"limits: {place} is no table; write {{ at_most = 1.0, unit = ... }}")
    measure = MEASURES[name]
    bound = "at_least" if measure.is_floor else "at_most"
    _check_keys(place, raw, (bound, "wanted", "unit"))
    numbers = {key: _number(place, key, raw[key]) for key in (bound, "wanted") if key in raw}
    if not numbers:
        raise PlanError(f"limits: {place} needs {bound}, or wanted, or both")
    if raw.get("unit") not in measure.units():
        raise PlanError(f"limits: the unit of {place} is missing or none of {measure.units()}")
    return Limit(value=numbers.get(bound), wanted=numbers.get("wanted"), unit=raw["unit"])


def _windows(name: str, raw: object) -> tuple[Window, ...]:
    place = f"windows of [{name}]"
    if not isinstance(raw, dict):
        raise PlanError(f"limits: {place} are no table; write {{ lung = [-600, 1500] }}")
    found = []
    for key, pair in raw.items():
        if not isinstance(pair, list) or len(pair) != 2:
            raise PlanError(f"limits: {place} need a level and a width each")
        level, width = (_number(place, key, value) for value in pair)
        if width <= 0:
            raise PlanError(f"limits: {place} need widths above 0")
        found.append(Window(name=key, low=level - width / 2, high=level + width / 2))
    return tuple(found)


def _ratio(name: str, raw: object) -> float:
    ratio = _number(f"[{name}]", "jpeg2000_ratio", raw)
    if ratio <= 1:
        raise PlanError(f"limits: jpeg2000_ratio of [{name}] needs to be above 1")
    return ratio


def _check_keys(place: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise PlanError(f"limits: {place} has no key {key!r}; known are {', '.join(known)}")


def _number(place: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PlanError(f"limits: {key} of {place} is no number")
    return float(value)


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise PlanError(f"limits: modalities and body_parts of [{name}] are lists of texts")
    return tuple(one.upper() for one in value)
