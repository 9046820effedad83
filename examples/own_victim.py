"""A victim of one's own: a function and a row in VICTIMS; an audit then trains it like the others.

Run: python examples/own_victim.py SOURCE OUT LABELS.csv PLOTS_FOLDER
"""

import runpy
import sys
from math import prod
from pathlib import Path

from torch import nn

from salm_dicom.audit import VICTIMS
from salm_dicom.audit.experiment import Settings
from salm_dicom.audit.run import Audit


def perceptron(classes: int, size: tuple[int, ...]) -> nn.Module:
    """Return a network for images (1, *size): it sees no neighbourhoods, unlike the others."""
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(size), 64), nn.ReLU(), nn.Linear(64, classes))


def main(source: Path, output: Path, labels: Path, plots: Path, epochs: int | None = None) -> Audit:
    """Audit an export with the victim above."""
    VICTIMS["perceptron"] = perceptron
    settings = Settings(victims=("perceptron",), countermeasures=("none",), seeds=1, epochs=epochs)
    audit_export = runpy.run_path(str(Path(__file__).with_name("audit_export.py")))
    done: Audit = audit_export["main"](source, output, labels, plots, settings)
    return done


if __name__ == "__main__":
    places = [Path(argument) for argument in sys.argv[1:5]]
    main(places[0], places[1], places[2], places[3])
