"""Document: an audit as one JSON object, with what is needed to read and to repeat it."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from salm_dicom import __version__
from salm_dicom.audit.countermeasures import COUNTERMEASURES
from salm_dicom.audit.dataset import Dataset, Side
from salm_dicom.audit.experiment import Found
from salm_dicom.audit.run import Audit
from salm_dicom.audit.summary import Row, sentence

SCHEMA = "salm-dicom audit 1"
_LIBRARIES = ("torch", "monai", "numpy", "pillow", "pydicom")


def document(audit: Audit, left_out: Mapping[str, int]) -> dict[str, Any]:
    """Return the audit as plain values; no patient, path or UID is in it.

    Parameters
    ----------
    left_out
        How many files are in no pair, by code.
    """
    summary = audit.summary
    return {
        "schema": SCHEMA,
        "is_complete": summary is not None,
        "trials_planned": audit.planned,
        "made_by": {"salm_dicom": __version__} | {name: version(name) for name in _LIBRARIES},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "jobs": audit.jobs,
            "device": audit.settings.device,
            "threads_of_a_job": 1,
        },
        "settings": _settings(audit),
        "data": _data(audit, left_out),
        "trials": [_trial(one, audit.data) for one in audit.found],
        "countermeasures": _rows(summary.countermeasures if summary else ()),
        "coverage": _rows(summary.coverage if summary else ()),
        "victims": [
            {"victim": name} | one
            for name, one in zip(summary.victims, _rows(summary.victims.values()), strict=True)
        ]
        if summary
        else [],
        "late": _rows(summary.late if summary else ()),
        "utility": asdict(summary.utility) if summary else None,
        "not_measured": audit.not_measured,
    }


def write_document(audit: Audit, left_out: Mapping[str, int], path: Path) -> None:
    """Write the audit as JSON, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(document(audit, left_out), indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def processor() -> str:
    """Return the model of the processor, where the system says it."""
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _settings(audit: Audit) -> dict[str, Any]:
    settings, plan = audit.settings, audit.view.plan
    return {
        "victims": list(settings.victims),
        "seeds": list(range(settings.seeds)),
        "countermeasures": {
            name: COUNTERMEASURES[name].setting for name in ("none", *settings.countermeasures)
        },
        "coverage_percent": sorted({100, *settings.coverage}),
        "epochs": settings.epochs,
        "extent": plan.extent,
        "size": list(audit.view.size),
        "slices_of_a_series": audit.view.slices,
        "weights": dict(audit.weights),
        "intensity_range": None if plan.intensity_range is None else list(plan.intensity_range),
    }


def _data(audit: Audit, left_out: Mapping[str, int]) -> dict[str, Any]:
    data = audit.data
    return {
        "task": audit.settings.task,
        "labels": list(data.classes),
        "labels_not_tested": list(data.rare),
        "score": data.task.score,
        "chance": data.chance,
        "sides": {name: _side(side, data.classes) for name, side in data.sides().items()},
        "left_out": dict(left_out),
    }


def _side(side: Side, classes: Sequence[str]) -> dict[str, Any]:
    images = side.shows.sum(0).tolist()
    return {
        "patients": len(set(side.patients.tolist())),
        "images": len(side.patients),
        "images_by_label": dict(zip(classes, images, strict=False)),
    }


def _trial(one: Found, data: Dataset) -> dict[str, Any]:
    seen = one.evidence_protected
    return {
        **asdict(one.spec),
        **asdict(one.trial),
        "on_protected_test": None
        if seen is None
        else data.task.scored(seen, data.test.clean.labels),
        "epochs": one.epochs,
        "seconds": round(one.seconds, 2),
    }


def _rows(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [asdict(row) | {"sentence": sentence(row)} for row in rows]
