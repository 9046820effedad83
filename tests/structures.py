"""Makes RT structure sets in code: polygons on the slices of a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from tests.synthetic import uid

# Of each structure: instance -> polygons of (column, row).
Polygons = Mapping[Path, Sequence[Sequence[tuple[float, float]]]]


def write_structures(path: Path, structures: Mapping[int, Polygons]) -> Path:
    """Write a structure set with numbered structures; one contour for each polygon."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid("rtstruct", path.name)
    made.Modality = "RTSTRUCT"
    made.ROIContourSequence = []
    for number, polygons in structures.items():
        structure = Dataset()
        structure.ReferencedROINumber = number
        structure.ContourSequence = [
            _contour(instance, polygon) for instance, some in polygons.items() for polygon in some
        ]
        made.ROIContourSequence.append(structure)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def _contour(instance: Path, polygon: Sequence[tuple[float, float]]) -> Dataset:
    image = pydicom.dcmread(instance, stop_before_pixels=True)
    along_row, along_column = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in image.PixelSpacing)
    points = [
        np.array(image.ImagePositionPatient, float)
        + column * between_columns * along_row
        + row * between_rows * along_column
        for column, row in polygon
    ]
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.6g}" for point in points for value in point]
    reference = Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    contour.ContourImageSequence = [reference]
    return contour
