"""An audit from Python: what victims learn from a protected export, in words and as plots.

Run: python examples/audit_export.py SOURCE OUT LABELS.csv PLOTS_FOLDER
`salm-dicom audit` does the same with more settings.
"""

import sys
from pathlib import Path

from salm_dicom.audit.experiment import Settings
from salm_dicom.audit.plots import draw
from salm_dicom.audit.run import Audit, audit
from salm_dicom.audit.subjects import Subject, View
from salm_dicom.audit.summary import sentence
from salm_dicom.batch.counterparts import pairs
from salm_dicom.batch.labels import Labels
from salm_dicom.plan import ProtectionPlan

QUICK = Settings(victims=("convnet",), countermeasures=("blur1",), seeds=1)


def main(source: Path, output: Path, labels: Path, plots: Path, settings: Settings) -> Audit:
    """Audit an export of which `labels` names the label of each patient."""
    found, left_out = pairs(
        source, output, Labels.read(labels, by="patient", root=source), split_by="patient"
    )
    print(f"{len(found)} series, {len(left_out)} files left out")
    subjects = [Subject(patient=one.patient, label=one.label, load=one.load) for one in found]
    view = View(plan=ProtectionPlan(method="random", slice_size=(32, 32)), slices=4)
    done = audit(subjects, settings, view)
    assert done.summary is not None
    for row in done.summary.countermeasures:
        print(f"{row.countermeasure}: {sentence(row)}")
    for path in draw(done.summary, plots):
        print(f"plot: {path}")
    return done


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:5]]
    main(places[0], places[1], places[2], places[3], QUICK)
