"""MONAI's face: LoadVolume, SALM and SaveVolume, as arrays and as dictionary transforms."""

from salm_dicom.transforms.load import LoadVolume, LoadVolumed
from salm_dicom.transforms.salm import SALM, SALMd
from salm_dicom.transforms.save import SaveVolume, SaveVolumed

__all__ = ["SALM", "LoadVolume", "LoadVolumed", "SALMd", "SaveVolume", "SaveVolumed"]
