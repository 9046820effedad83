"""Protect one series from Python: read it, find the perturbation, write derived instances.

Run: python examples/protect_series.py SERIES_FOLDER OUT_FOLDER
"""

import sys
from datetime import datetime
from pathlib import Path

from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord
from salm_dicom.transforms import SALM, LoadVolume, SaveVolume


def main(series: Path, output: Path) -> ProtectionRecord:
    """Protect a series with the random control, which needs neither labels nor a fit."""
    protector = Protector(plan=ProtectionPlan(method="random", epsilon="4/255", rho=0.2))
    image = LoadVolume(allow_irregular=True)(series)
    protected = SALM(protector)(image)
    saved = SaveVolume(output, created=datetime.now().astimezone())(protected)
    record = ProtectionRecord.from_json(saved.meta["salm_record"])
    print(f"written to {saved.meta['saved_to']}")
    print(
        f"largest change {record.largest_change_modality:g} {record.units}, "
        f"{record.changed_share:.1%} of foreground voxels"
    )
    return record


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
