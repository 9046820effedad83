"""Where a run may write: folders apart from each other, and nothing in OUT that is not its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from salm_dicom.batch.ledger import Ledger
from salm_dicom.batch.manifest import MANIFEST
from salm_dicom.dicom.index import INDEX
from salm_dicom.errors import PlanError, UnsafeError
from salm_dicom.protector.store import FILES, UNFINISHED


def check_places(source: Path, output: Path, vault: Path) -> None:
    """Refuse an output or vault that would mix with the source or with each other.

    Raises
    ------
    PlanError
        The source does not exist.
    UnsafeError
        One folder lies inside another.
    """
    if not source.exists():
        raise PlanError("SOURCE does not exist; give the folder of an export")
    check_apart({"SOURCE": source, "OUT": output, "the vault": vault})


def check_apart(places: Mapping[str, Path]) -> None:
    """Refuse folders of which one lies inside another, or is it.

    Raises
    ------
    UnsafeError
    """
    resolved = {name: place.resolve() for name, place in places.items()}
    for inner, a in resolved.items():
        for outer, b in resolved.items():
            if inner != outer and (a == b or b in a.parents):
                raise UnsafeError(f"{inner} lies in {outer}; give folders apart from each other")


def check_output(output: Path, ledger: Ledger) -> None:
    """Refuse an output that holds what no run with this ledger has written.

    Raises
    ------
    UnsafeError
    """
    if output.exists() and not output.is_dir():
        raise UnsafeError("OUT is a file; a folder is needed")
    known = {MANIFEST, f"{MANIFEST}.partial", INDEX, f"{INDEX}.partial"}
    there = output.iterdir() if output.exists() else ()
    strange = sum(not (p.name in known or ledger.owns(p.name)) for p in there)
    if strange:
        raise UnsafeError(
            f"OUT holds {strange} files or folders that are not from a run with this vault; "
            "use an empty folder, or give the vault it was made with"
        )


def check_protector(output: Path) -> None:
    """Refuse a folder for a protector that holds anything but a fit that can go on.

    Raises
    ------
    UnsafeError
    """
    there = {path.name for path in output.iterdir()} if output.exists() else set()
    known = {name for name in there if name.startswith(FILES)}
    if there - known - {UNFINISHED} or (there and UNFINISHED not in there):
        raise UnsafeError("the protector's folder is not empty; use a new one")


def check_target(output: Path, target: Path, vault: Path) -> None:
    """Refuse a target that is not empty, or lies inside another folder or around it."""
    check_places(output, target, vault)
    if target.exists() and any(target.iterdir()):
        raise UnsafeError("the target is not empty; nothing is ever overwritten")
