"""Checkpoint: what a fit that was killed goes on from, in a folder of its own; as secret as it.

    fit/about.json                     whose it is: plan, studies and versions, as one digest
    fit/clusters.safetensors           what stands in place of labels, of a label-free fit
    fit/EXTENT/samples.json, 00*       what was read, see `spool`
    fit/EXTENT/trained.safetensors     network, optimiser and generator after a surrogate phase
    fit/EXTENT/reached.json            what was measured then; the noise phase may begin
    fit/EXTENT/00*.shadow-N.npy        the perturbation of a volume after N noise phases
    fit/EXTENT/surrogate.safetensors   the result; the rest of the extent is gone

Each file is there whole or not at all, and says what may be done next, so that whatever was under
way when a fit was killed is done again from the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from salm_dicom.errors import InputError, UnsafeError
from salm_dicom.folder import locked, make_private, write_whole
from salm_dicom.plan import ProtectionPlan
from salm_dicom.protector.clusters import Clusters, encoder_spec
from salm_dicom.protector.device import other_kind
from salm_dicom.protector.sampled import Progress, Study
from salm_dicom.protector.spool import Unfit
from salm_dicom.protector.store import UNFINISHED
from salm_dicom.protector.surrogate import Surrogate
from salm_dicom.protector.tensors import read_tensors, tensor_file

_FORMAT = 3
_ABOUT, _CLUSTERS, _TRAINED, _REACHED, _SURROGATE = (
    "about.json", "clusters.safetensors", "trained.safetensors", "reached.json",
    "surrogate.safetensors",
)  # fmt: skip


@contextmanager
def unfinished(workspace: Path, digest: str | None) -> Iterator[Path]:
    """Give the folder of a fit, as one with this digest left it; it goes when that has succeeded.

    Parameters
    ----------
    digest
        Of all that decides the result, see `digest_of_fit`; None: a folder that nobody finds again.

    Raises
    ------
    UnsafeError
        It is of a fit of something else.
    Locked
        Another process is at it.
    """
    if digest is None:
        with TemporaryDirectory(dir=workspace, prefix="fit-") as nameless:
            yield Path(nameless)
        return
    folder = workspace / UNFINISHED
    make_private(folder)
    with locked(folder, "this protector"):
        _claim(folder, digest)
        try:
            yield folder
        except BaseException as error:
            # there is nothing to go on with, or the same would end in the same way again
            if isinstance(error, InputError) or not _has_kept(folder):
                _remove(folder)
            raise
        _remove(folder)


def _claim(folder: Path, digest: str) -> None:
    """Make the folder that of one fit, or see that it is."""
    about = {"format": _FORMAT, "digest": digest}
    try:
        known = json.loads((folder / _ABOUT).read_text())
    except FileNotFoundError:
        (folder / _CLUSTERS).unlink(missing_ok=True)
        for one in ("slice", "volume"):
            shutil.rmtree(folder / one, ignore_errors=True)
        write_whole(folder / _ABOUT, json.dumps(about).encode())
        return
    if known != about:
        raise UnsafeError(
            "an unfinished fit lies there, of other settings, studies or versions; give those "
            f"again to go on, remove its folder {UNFINISHED} to begin anew, or use a new output "
            "folder"
        )


def _has_kept(folder: Path) -> bool:
    """Return whether a fit has left more in its folder than that it was begun."""
    return (folder / _CLUSTERS).exists() or any(folder.glob("*/*.json"))


def _remove(folder: Path) -> None:
    """Remove the folder; what is left of it after a kill is nobody's."""
    (folder / _ABOUT).unlink(missing_ok=True)
    shutil.rmtree(folder)


def digest_of_fit(
    studies: Sequence[Study], plan: ProtectionPlan, device: str, progress: Progress
) -> str | None:
    """Return the digest of all that decides what a fit gives; None if a study has none."""
    content: list[Any] = [plan.digest(), torch.__version__, *other_kind(device)]
    for place, study in enumerate(studies):
        if study.digest is None:
            return None
        progress("look at sources", place, len(studies))
        content.append([study.label, study.digest()])
    progress("look at sources", len(studies), len(studies))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Learner:
    """A surrogate in the making: a network, its optimiser, and what is drawn at random.

    Parameters
    ----------
    rounds
        Surrogate phases that it has had.
    passes
        Forward and backward passes of one image in them.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    rng: torch.Generator
    rounds: int = 0
    passes: int = 0

    def save(self, folder: Path) -> None:
        """Write the state after a surrogate phase."""
        tensors = {f"weights/{name}": one for name, one in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for kind, one in self.optimiser.state[parameter].items():
                tensors[f"optimiser/{kind}/{name}"] = one
        tensors["rng"] = self.rng.get_state()
        about = {"rounds": self.rounds, "passes": self.passes}
        write_whole(folder / _TRAINED, tensor_file(tensors, about))

    def resume(self, folder: Path) -> bool:
        """Take up the state that `save` wrote, and return whether it did."""
        if not (folder / _TRAINED).exists():
            return False
        tensors, about = read_tensors(folder / _TRAINED)
        self.network.load_state_dict(_named(tensors, "weights/"))
        of_name = dict(self.network.named_parameters())
        for key, one in _named(tensors, "optimiser/").items():
            kind, _, name = key.partition("/")
            self.optimiser.state[of_name[name]][kind] = one.to(of_name[name].device)
        self.rng.set_state(tensors["rng"])
        self.rounds, self.passes = int(about["rounds"]), int(about["passes"])
        return True


def trained_file(folder: Path) -> Path:
    """Return the file that `Learner.save` writes."""
    return folder / _TRAINED


def trained_weights(file: Path) -> dict[str, Tensor]:
    """Return the weights of the network that `Learner.save` wrote."""
    return _named(read_tensors(file)[0], "weights/")


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): one for k, one in tensors.items() if k.startswith(prefix)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How far the rounds of an extent have come.

    Parameters
    ----------
    rounds
        Surrogate phases that were measured.
    error
        Of the surrogate on what is protected so far, 0 to 1.
    best
        Smallest of all rounds.
    waited
        Rounds since then, in which the surrogate was right anywhere.
    """

    rounds: int = 0
    error: float = 1.0
    best: float = float("inf")
    waited: int = 0

    def after(self, error: float) -> Reached:
        """Return where one more round with this error leads."""
        # a surrogate that still gets everything wrong has not begun to learn: no plateau
        best, waited = (error, 0) if error < self.best else (self.best, self.waited + (error < 1))
        return Reached(rounds=self.rounds + 1, error=error, best=best, waited=waited)

    def save(self, folder: Path) -> None:
        """Write it."""
        write_whole(folder / _REACHED, json.dumps(asdict(self)).encode())

    @classmethod
    def in_folder(cls, folder: Path) -> Reached:
        """Return what was written last, or the beginning."""
        path = folder / _REACHED
        return cls(**json.loads(path.read_text())) if path.exists() else cls()


def finish(folder: Path, weights: dict[str, Tensor], report: dict[str, float]) -> None:
    """Write the result of an extent."""
    write_whole(folder / _SURROGATE, tensor_file(weights, report))


def finished(folder: Path) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Return what `finish` wrote, if it did."""
    path = folder / _SURROGATE
    return read_tensors(path) if path.exists() else None


def keep_clusters(
    folder: Path, clusters: Clusters, labels: Sequence[str], unfit: Sequence[Unfit]
) -> None:
    """Write clusters, the one of each study, and the studies that have none."""
    tensors = {f"weights/{name}": one for name, one in clusters.encoder.weights.items()}
    tensors["centroids"] = clusters.centroids
    about = {"labels": labels, "unfit": unfit}
    write_whole(folder / _CLUSTERS, tensor_file(tensors, about))


def kept_clusters(
    folder: Path, plan: ProtectionPlan
) -> tuple[Clusters, list[str], list[Unfit]] | None:
    """Return what `keep_clusters` wrote, if it did."""
    if not (folder / _CLUSTERS).exists():
        return None
    tensors, about = read_tensors(folder / _CLUSTERS)
    encoder = Surrogate(spec=encoder_spec(plan), weights=_named(tensors, "weights/"))
    clusters = Clusters(encoder=encoder, centroids=tensors["centroids"])
    return clusters, about["labels"], [tuple(one) for one in about["unfit"]]
