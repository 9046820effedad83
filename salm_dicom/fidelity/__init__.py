"""Did the images stay the same: numbers measured on source and protected pixels, and limits."""

from salm_dicom.fidelity.limits import Check, Limits, checks, missed
from salm_dicom.fidelity.metrics import Fidelity, measure

__all__ = ["Check", "Fidelity", "Limits", "checks", "measure", "missed"]
