"""The artefact that protects new studies: fit it, save it, load it, apply it."""

from salm_dicom.protector.apply import Protector, Surrogate
from salm_dicom.protector.fit import Study, fit
from salm_dicom.protector.protected import Protected
from salm_dicom.protector.store import load, loaded, save

__all__ = ["Protected", "Protector", "Study", "Surrogate", "fit", "load", "loaded", "save"]
