"""Did the images stay the same: numbers measured on source and protected pixels, and limits."""

from salm_dicom.fidelity.limits import Limits, missed
from salm_dicom.fidelity.metrics import Fidelity, measure

__all__ = ["Fidelity", "Limits", "measure", "missed"]
