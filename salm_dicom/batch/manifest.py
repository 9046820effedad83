"""What came of a run, and the part of it that may be shared: `manifest.json` in the output."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from salm_dicom import __version__
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One protected series: its folder below the output, number of slices, what was done."""

    name: str
    slices: int
    modality: str
    record: ProtectionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """One object that was copied with its references mapped: its file, and what it is."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The DICOMDIR of an output: instances in it, and those that lack what a record must have."""

    instances: int
    lacking: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run.

    Parameters
    ----------
    done
        Protected series, of this run and of earlier ones into the same output.
    left_out
        Every file that is neither protected nor copied, with its code.
    resumed
        How many series an earlier run had done.
    copied
        Objects in the output, of this run and of earlier ones.
    index
        The output's DICOMDIR; None where it has none.
    log
        Where unforeseen errors happened, for the log file.
    """

    done: tuple[Done, ...]
    left_out: tuple[LeftOut, ...]
    resumed: int
    copied: tuple[Copied, ...] = ()
    index: Index | None = None
    log: tuple[str, ...] = ()


def write_manifest(output: Path, protector: Protector, created: datetime, result: Result) -> None:
    """Write what may be shared: no patient data, no source paths or UIDs, no seed; atomically."""
    plan = protector.plan.to_dict()
    del plan["seed"]
    content = {
        "salm_dicom": __version__,
        "created": created.isoformat(),
        "digest": protector.digest,
        "plan": plan,
        "series": [_shared(one) for one in result.done],
        "objects": [{"file": one.name, "kind": one.kind} for one in result.copied],
        "left_out": dict(sorted(Counter(entry.code for entry in result.left_out).items())),
    }
    write_json(output, content)


def read_manifest(output: Path) -> dict[str, Any]:
    """Return what the manifest of an output says; empty where there is none that can be read."""
    try:
        found = json.loads((output / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def note_decisions(output: Path, decisions: Mapping[str, str]) -> None:
    """Say in the manifest which series a reviewer accepted; who, and why, stays in the vault."""
    content = read_manifest(output)
    entries = [one for one in content.get("series", ()) if one["folder"] in decisions]
    for entry in entries:
        entry["review"] = decisions[entry["folder"]]
    if entries:
        write_json(output, content)


def write_json(output: Path, content: Mapping[str, object]) -> None:
    """Write a manifest, atomically."""
    partial = output / f"{MANIFEST}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=1, sort_keys=True)
        stream.write("\n")
    partial.rename(output / MANIFEST)


def _shared(one: Done) -> dict[str, object]:
    record = one.record
    return {
        "folder": one.name,
        "instances": one.slices,
        "modality": one.modality,
        "extent": record.extent,
        "budget": {
            "fraction": record.epsilon,
            "modality": record.budget_modality,
            "stored": record.budget_stored,
        },
        "largest_change_stored": record.largest_change_stored,
        "changed_share_of_foreground": record.changed_share,
        "warnings": list(record.warnings),
    }
