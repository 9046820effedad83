"""SALM inside a MONAI pipeline: load, protect and save series in two spawned workers.

Run: python examples/monai_pipeline.py PROTECTOR_FOLDER OUT_FOLDER SERIES=LABEL [SERIES=LABEL ...]
The protector comes from `salm-dicom fit`.
"""

import sys
from datetime import datetime
from pathlib import Path

from monai.data import DataLoader, Dataset
from monai.transforms import Compose

from salm_dicom.transforms import LoadVolumed, SALMd, SaveVolumed


def main(protector: Path, output: Path, labels: dict[str, str]) -> int:
    """Protect every series folder in `labels`; return how many were written."""
    pipeline = Compose(
        [
            LoadVolumed("image", allow_irregular=True),
            SALMd("image", protector, label_key="label"),
            SaveVolumed("image", output, created=datetime.now().astimezone()),
        ]
    )
    items = [{"image": folder, "label": label} for folder, label in labels.items()]
    loader = DataLoader(
        Dataset(items, pipeline), batch_size=1, num_workers=2, multiprocessing_context="spawn"
    )
    written = 0
    for batch in loader:
        written += 1
        print(f"protected {tuple(batch['image'].shape)} as {batch['image'].meta['saved_to']}")
    return written


if __name__ == "__main__":
    pairs = dict(argument.rsplit("=", 1) for argument in sys.argv[3:])
    main(Path(sys.argv[1]), Path(sys.argv[2]), pairs)
