"""MONAI's face: transforms that load, protect and save volumes, and plug-ins for LoadImage."""

from salm_dicom.transforms.load import LoadVolume, LoadVolumed
from salm_dicom.transforms.reader import VolumeReader
from salm_dicom.transforms.salm import SALM, SALMd
from salm_dicom.transforms.save import SaveVolume, SaveVolumed
from salm_dicom.transforms.writer import VolumeWriter

__all__ = [
    "SALM",
    "LoadVolume",
    "LoadVolumed",
    "SALMd",
    "SaveVolume",
    "SaveVolumed",
    "VolumeReader",
    "VolumeWriter",
]
