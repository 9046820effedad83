"""Writes small grey pictures as radiographs in DICOM: a series of a few for each patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pydicom

from tests.synthetic import write_ct_series


def write_radiographs(
    folder: Path, pictures: Mapping[str, np.ndarray], patients: int, each: int
) -> Path:
    """Write pictures of one label as series, and return a labels file (`--labels-by patient`).

    Parameters
    ----------
    pictures
        Of each label, (n, rows, columns), uint8; n is at least `patients * each`.
    patients
        Of each label.
    each
        Pictures of a patient.
    """
    rows = ["key,label"]
    for name, images in pictures.items():
        if len(images) < patients * each:
            raise ValueError(f"{len(images)} pictures of {name}, {patients} times {each} wanted")
        for patient in range(patients):
            key = f"{name}{patient}"
            paths = write_ct_series(
                folder / key, patient_id=key, slices=each, rows=images.shape[1],
                columns=images.shape[2], bits_stored=8, signed=False, intercept=0.0, private=False,
            )  # fmt: skip
            for index, path in enumerate(paths):
                dataset = pydicom.dcmread(path)
                dataset.Modality = "DX"
                dataset.PixelData = images[patient * each + index].tobytes()
                dataset.save_as(path)
            rows.append(f"{key},{name}")
    labels = folder.parent / "labels.csv"
    labels.write_text("\n".join(rows))
    return labels
