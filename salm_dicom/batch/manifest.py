"""What came of a run, and the part of it that may be shared: `manifest.json` in the output."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar, overload

from salm_dicom import __version__
from salm_dicom.dicom.deidentify import RULES_OF, method
from salm_dicom.dicom.scan import LeftOut
from salm_dicom.protector import Protector
from salm_dicom.record import ProtectionRecord

T = TypeVar("T", covariant=True)
MANIFEST = "manifest.json"
# So many entries of a result stay in memory.
_SHORT = 1000


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


class Kept(Sequence[T]):
    """A long sequence that is read anew each time, until the next run; its length is in memory."""

    def __init__(self, length: int, read: Callable[[], Iterator[T]]) -> None:
        self._length, self._read = length, read

    @classmethod
    def of(cls, read: Callable[[], Iterator[T]]) -> Sequence[T]:
        """Return what is read: a tuple where it is short."""
        rest = read()
        first = tuple(islice(rest, _SHORT + 1))
        return first if len(first) <= _SHORT else cls(len(first) + sum(1 for _ in rest), read)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return self._read()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return tuple(self)[index]
        place = range(self._length)[index]
        return next(islice(self, place, None))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a run; long lists are read from the vault whenever they are asked for.

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

    done: Sequence[Done]
    left_out: Sequence[LeftOut]
    resumed: int
    copied: Sequence[Copied] = ()
    index: Index | None = None
    log: tuple[str, ...] = ()


def write_manifest(
    output: Path,
    protector: Protector,
    created: datetime,
    result: Result,
    deidentified: bool = False,
) -> None:
    """Write what may be shared: no patient data, no source paths or UIDs, no seed; atomically."""
    plan = protector.plan.to_dict()
    del plan["seed"]
    content: dict[str, object] = {
        "salm_dicom": __version__,
        "created": created.isoformat(),
        "digest": protector.digest,
        "plan": plan,
        **({"deidentified": f"{method()}; {RULES_OF}; not pixels"} if deidentified else {}),
        "series": map(_shared, result.done),
        "objects": ({"file": one.name, "kind": one.kind} for one in result.copied),
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


def write_json(output: Path, content: dict[str, object]) -> None:
    """Write a manifest, atomically; iterators in it are written by and by."""
    partial = output / f"{MANIFEST}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.writelines(_json(content))
    partial.rename(output / MANIFEST)


def _json(content: dict[str, object]) -> Iterator[str]:
    """Yield a JSON object by and by, as `json.dump(indent=1, sort_keys=True)` writes it."""
    before = "{\n"
    for key, value in sorted(content.items()):
        yield f"{before} {json.dumps(key)}: "
        before = ",\n"
        if isinstance(value, Iterator):
            empty = True
            for item in value:
                yield "[\n" if empty else ",\n"
                yield indent(json.dumps(item, indent=1, sort_keys=True), "  ")
                empty = False
            yield "[]" if empty else "\n ]"
        else:
            yield indent(json.dumps(value, indent=1, sort_keys=True), " ").lstrip(" ")
    yield "\n}\n"


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
        **({"quantitative": record.quantity} if record.quantity else {}),
    }
