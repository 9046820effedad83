"""Pictures of a protected series: source beside protected, the change, and numbers by slice.

Run: python examples/pictures.py SERIES_FOLDER PICTURES_FOLDER
"""

import sys
from pathlib import Path

from salm_dicom.dicom.series import files_of, read_series
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector


def main(folder: Path, pictures: Path) -> list[Path]:
    """Protect a series with the random control, in memory; write three pictures."""
    series = read_series(files_of(folder))
    protector = Protector(plan=ProtectionPlan(method="random"))
    found = protector.apply(series.volume, series_uid=series.series_uid)
    pictures.mkdir(parents=True, exist_ok=True)
    figures = {"plot": found.plot(), "histogram": found.histogram(), "curves": found.curves()}
    files = []
    for name, figure in figures.items():
        files.append(pictures / f"first-series-{name}.png")
        figure.savefig(files[-1], dpi=80)
        print(f"picture: {files[-1]}")
    return files


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
