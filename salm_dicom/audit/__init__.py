"""Audit: does it protect? Victims learn from protected images and are tested on clean ones."""

from salm_dicom.audit.countermeasures import COUNTERMEASURES, Countermeasure
from salm_dicom.audit.images import Images, Sets
from salm_dicom.audit.score import (
    chance_of_masks,
    normalised_protection,
    protection_if_any,
    verdict,
)
from salm_dicom.audit.trial import Course, Trial, learn, trial
from salm_dicom.victims import SEGMENTERS, VICTIMS

__all__ = [
    "COUNTERMEASURES",
    "SEGMENTERS",
    "VICTIMS",
    "Countermeasure",
    "Course",
    "Images",
    "Sets",
    "Trial",
    "chance_of_masks",
    "learn",
    "normalised_protection",
    "protection_if_any",
    "trial",
    "verdict",
]
