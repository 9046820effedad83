"""The artefact that protects new studies: fit it (`protector.fit`), save it, load it, apply it."""

from salm_dicom.protector.apply import Protector
from salm_dicom.protector.protected import Protected
from salm_dicom.protector.store import load, loaded, save
from salm_dicom.protector.target import Mask

__all__ = ["Mask", "Protected", "Protector", "load", "loaded", "save"]
