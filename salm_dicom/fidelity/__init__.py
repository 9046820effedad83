"""Did the images stay the same: numbers measured on source and protected pixels, and limits."""

from salm_dicom.fidelity.checking import Check, checks, missed
from salm_dicom.fidelity.limits import Limits, Profile
from salm_dicom.fidelity.measures import DEFAULT_ROWS, MEASURES, ROWS
from salm_dicom.fidelity.metrics import METRICS, Fidelity, measure
from salm_dicom.fidelity.subject import Reading, Region, Subject, Window

__all__ = [
    "DEFAULT_ROWS",
    "MEASURES",
    "METRICS",
    "ROWS",
    "Check",
    "Fidelity",
    "Limits",
    "Profile",
    "Reading",
    "Region",
    "Subject",
    "Window",
    "checks",
    "measure",
    "missed",
]
