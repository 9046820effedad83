"""A method of one's own: a frozen dataclass and a row in METHODS; the framework does the rest.

Run: python examples/own_method.py SERIES_FOLDER OUT_FOLDER
"""

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from salm_dicom.perturb import METHODS
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord
from salm_dicom.transforms import SALM, LoadVolume, SaveVolume


@dataclass(frozen=True, slots=True, kw_only=True)
class Stripes:
    """Columns in turn up and down by the budget; `perturb` keeps it in budget and foreground."""

    rho: float = 0.2
    width: int = 4

    needs_gradient: ClassVar[bool] = False
    needs_label: ClassVar[bool] = False
    uses_torch: ClassVar[bool] = False
    class_wise: ClassVar[bool] = False
    label_shift: ClassVar[int] = 0
    region: ClassVar[None] = None

    def __call__(
        self, x: Any, loss: Any, foreground: Any, limits: Any, rng: Any, start: Any = None
    ) -> Any:
        """Return the wish in stored units, shape of x: (samples, 1, rows, columns)."""
        sign = np.where(np.arange(x.shape[-1]) // self.width % 2, 1, -1)
        chosen = foreground & (rng.random(x.shape) < self.rho)
        return np.broadcast_to(limits.budget * sign, x.shape) * chosen


def main(series: Path, output: Path) -> ProtectionRecord:
    """Protect a series with the method above."""
    METHODS["stripes"] = lambda settings: Stripes(rho=settings.rho)
    protector = Protector(plan=ProtectionPlan(method="stripes", rho=0.2))
    protected = SALM(protector)(LoadVolume(allow_irregular=True)(series))
    saved = SaveVolume(output, created=datetime.now().astimezone())(protected)
    record = ProtectionRecord.from_json(saved.meta["salm_record"])
    print(f"{record.method}: {record.changed_share:.1%} of the foreground changed")
    return record


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
