"""RULES: which images are measurements that a perturbation would falsify, case by case.

CT numbers are left to the budget: they are what windows are set on. What is refused is what
people read numbers off: uptake, dose, perfusion, relaxation and diffusion maps, material images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from salm_dicom.errors import Quantitative

WARNING = "W_QUANTITATIVE"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# SOP classes whose pixels are numbers, not pictures; other classes say it by an attribute.
_PET = {f"{_STORAGE}{number}" for number in ("128", "128.1", "130")}
_NUCLEAR = {f"{_STORAGE}20"}
_MAPS = {f"{_STORAGE}{number}" for number in ("30", "81.1", "82.1")}
# Values of Image Type and Frame Type from the third on: the standard's, and what scanners write.
_MAP_TYPES = {
    # diffusion
    "ADC", "ADC_MAP", "FA", "FA_MAP", "EADC", "KURTOSIS",
    # relaxation and what else MR maps
    "T1_MAP", "T2_MAP", "T2_STAR_MAP", "T1RHO_MAP", "R1_MAP", "R2_MAP", "R2_STAR_MAP", "ECV_MAP",
    "PROTON_DENSITY_MAP", "METABOLITE_MAP", "SNR_MAP", "B0_MAP", "B1_MAP", "TEMPERATURE",
    "TEMPERATURE_MAP", "VELOCITY", "VELOCITY_MAP", "FAT_FRACTION", "PDFF", "STIFFNESS", "QSM",
    # perfusion
    "CBF", "CBV", "RCBF", "RCBV", "MTT", "TTP", "TMAX", "KTRANS", "PERFUSION_MAP",
    # multi-energy CT
    "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED",
    "QUANTITY", "SUV",
}  # fmt: skip
# Rescale Type (0028,1054) of material images, PS3.3 C.11.1.1.2, and of activity and dose.
_UNITS = {"MGML", "Z_EFF", "ED", "EDW", "PCT", "BQML", "SUV", "GY", "CGY"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an image says of its values.

    Parameters
    ----------
    types
        Image Type and Frame Type of every frame, each value by itself, from the third on.
    rescale_types
        Rescale Type of every frame.
    units
        Units (0054,1001) of PET, or `Units` of a NIfTI sidecar.
    is_mapped
        Whether a Real World Value Mapping Sequence is in it.
    """

    modality: str
    sop_class: str = ""
    types: frozenset[str] = frozenset()
    rescale_types: frozenset[str] = frozenset()
    units: str = ""
    is_mapped: bool = False

    @classmethod
    def words(cls, found: Iterable[str]) -> frozenset[str]:
        """Return values of Image Type or Rescale Type in one spelling."""
        return frozenset(word.strip().upper().replace(" ", "_").replace("-", "_") for word in found)


RULES: dict[str, Callable[[Said], bool]] = {
    "PET measures uptake": lambda s: s.modality == "PT" or s.sop_class in _PET,
    "nuclear medicine counts decays": lambda s: s.modality == "NM" or s.sop_class in _NUCLEAR,
    "the values are radiation dose": lambda s: s.modality == "RTDOSE",
    "the object is a parametric map": lambda s: s.sop_class in _MAPS,
    "the values are mapped to real-world quantities": lambda s: s.is_mapped,
    "the values have units": lambda s: s.units.lower() not in ("", "arbitrary", "hu"),
    "Image Type says that it is a map": lambda s: bool(s.types & _MAP_TYPES),
    "Rescale Type names a physical quantity": lambda s: bool(s.rescale_types & _UNITS),
}
# Said of an image that an object beside it maps.
MAPPED = "an object of the export maps the values to real-world quantities"


def quantity(said: Said) -> str:
    """Return why the values of an image are measurements; empty when they are not."""
    return next((why for why, holds in RULES.items() if holds(said)), "")


def check_allowed(why: str, allowed: bool) -> None:
    """Raise `Quantitative` for an image that measures something, unless that was allowed."""
    if why and not allowed:
        raise Quantitative(
            f"{why}; any change makes them wrong. Leave it out, or protect it all the same with "
            "--allow-quantitative"
        )


def warnings_of(why: str) -> tuple[str, ...]:
    """Return what a record says of an image that was changed although it measures something."""
    return (f"{WARNING}: {why}; changed all the same, as was asked",) if why else ()
