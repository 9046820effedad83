"""A protector on disk: `protector.json` and one safetensors file for each surrogate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from salm_dicom.errors import PlanError
from salm_dicom.folder import write_whole
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.apply import Protector

if TYPE_CHECKING:
    from salm_dicom.protector.clusters import Clusters
    from salm_dicom.protector.surrogate import Surrogate

PROTECTOR = "protector.json"
# What the names of the files of a protector begin with.
FILES = (PROTECTOR, "surrogate-", "encoder.", "centroids.")
# Name of the folder of a fit that has not succeeded yet, see `checkpoint`.
UNFINISHED = "fit"
_FORMAT = 1


def save(protector: Protector, folder: Path) -> None:
    """Write safetensors of networks and clusters, then `protector.json`; folder 0700, files 0600.

    Each file is there whole or not at all.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for extent, one in protector.surrogates.items():
        write_whole(folder / f"surrogate-{extent}.safetensors", one.to_bytes())
    if protector.clusters is not None:
        write_whole(folder / "encoder.safetensors", protector.clusters.encoder.to_bytes())
        write_whole(folder / "centroids.safetensors", protector.clusters.to_bytes())
    content = {
        "format": _FORMAT,
        "digest": protector.digest,
        "plan": protector.plan.to_dict(),
        "classes": list(protector.classes),
        "surrogates": {
            extent: {"size": one.spec.size, "width": one.spec.width}
            for extent, one in protector.surrogates.items()
        },
        "report": dict(protector.report),
    }
    write_whole(folder / PROTECTOR, json.dumps(content, indent=1, sort_keys=True).encode())


def load(folder: Path) -> Protector:
    """Return the protector that `save` wrote; nothing is unpickled, the digest is checked.

    Raises
    ------
    PlanError
        The folder holds no protector, or one that was changed.
    """
    try:
        content = json.loads((folder / PROTECTOR).read_text())
        if content["format"] != _FORMAT:
            raise PlanError(f"protector format {content['format']!r}; {_FORMAT} is needed")
        classes = tuple(content["classes"])
        plan = ProtectionPlan.from_dict(content["plan"])
        found = Protector(
            plan=plan,
            classes=classes,
            surrogates=_surrogates(folder, content["surrogates"], len(classes), plan),
            clusters=_clusters(folder, plan),
            report=content["report"],
        )
        digest = content["digest"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise PlanError(
            f"the folder holds no protector that can be read ({type(error).__name__}); "
            "make one with `salm-dicom fit`"
        ) from error
    if found.digest != digest:
        raise PlanError("the protector's digest does not fit its files; fit it again")
    return found


def _surrogates(
    folder: Path, said: Mapping[str, Mapping[str, Any]], classes: int, plan: ProtectionPlan
) -> dict[str, Surrogate]:
    if not said:
        return {}
    from salm_dicom.protector.surrogate import from_bytes, spec_of

    return {
        extent: from_bytes(
            (folder / f"surrogate-{extent}.safetensors").read_bytes(),
            replace(spec_of(plan, extent, classes), size=tuple(one["size"]), width=one["width"]),
        )
        for extent, one in said.items()
    }


def _clusters(folder: Path, plan: ProtectionPlan) -> Clusters | None:
    if not plan.label_free:
        return None
    from salm_dicom.protector import clusters
    from salm_dicom.protector.surrogate import from_bytes

    weights = (folder / "encoder.safetensors").read_bytes()
    encoder = from_bytes(weights, clusters.encoder_spec(plan))
    return clusters.from_bytes((folder / "centroids.safetensors").read_bytes(), encoder)


def loaded(protector: Protector | Path) -> Protector:
    """Return the protector of a folder, loaded once for each process; a protector as it is.

    One that was fitted again in its place is loaded again.
    """
    if isinstance(protector, Protector):
        return protector
    try:
        found = (protector / PROTECTOR).stat()
    except OSError:
        return load(protector)  # says what is wrong
    key = (str(protector.absolute()), found.st_ino, found.st_mtime_ns)
    if key not in _LOADED:
        _LOADED[key] = load(protector)
    return _LOADED[key]


# Protectors of this process by folder and version of it: pipelines and jobs pickle as a path.
_LOADED: dict[tuple[str, int, int], Protector] = {}
