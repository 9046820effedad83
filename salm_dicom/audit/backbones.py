"""Backbones: victims that begin with weights from elsewhere; all learn on, or the last layer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from salm_dicom.errors import PlanError
from salm_dicom.networks import AtLeast, Padded
from salm_dicom.victims import build_victim

# How many names an error lists.
_SHOWN = 3
# Networks for colour see a grey image three times.
_COLOURS = 3
# Outputs of a network that is only built to see which weights it takes.
_ANY = 2


def checked(folder: Path, victims: Sequence[str], size: tuple[int, ...]) -> dict[str, str]:
    """Return the SHA-256, hexadecimal, of the weights of each victim.

    Parameters
    ----------
    size
        Of what victims see.

    Raises
    ------
    PlanError
        A victim has no file, or one of another network.
    """
    for name in victims:
        begin(build_victim(name, _ANY, size, 0), name, folder, _ANY, size)
    return {name: hashlib.sha256(_read(folder, name)).hexdigest() for name in victims}


def begin(
    network: nn.Module, victim: str, folder: Path, outputs: int, size: tuple[int, ...]
) -> list[nn.Parameter]:
    """Give a victim its weights, and return the parameters of its last layer, which has none.

    The last layer are those tensors whose shape depends on the number of outputs. A first layer
    of three channels is summed over them, as for a grey image that is shown three times.

    Parameters
    ----------
    network, victim, outputs, size
        A network, and what `build_victim` was given for it.
    folder
        Holds `VICTIM.safetensors`, the state_dict of the network in MONAI.

    Raises
    ------
    PlanError
        There is no such file, or it is of another network.
    """
    inner = network.network if isinstance(network, AtLeast | Padded) else network
    last = _last_layer(network, victim, outputs, size)
    wanted = {name: one for name, one in inner.state_dict().items() if name not in last}
    given = _tensors(folder, victim)
    found = {name: _fitting(given.get(name), one) for name, one in wanted.items()}
    # counts of batches say nothing where running means have a momentum; old files have none
    missing = [
        name
        for name, one in found.items()
        if one is None and not name.endswith("num_batches_tracked")
    ]
    if missing:
        names = ", ".join(
            f"{name} {tuple(wanted[name].shape)}"
            + (f" (found {tuple(given[name].shape)})" if name in given else "")
            for name in missing[:_SHOWN]
        )
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise PlanError(
            f"{victim}.safetensors is of another network: of {len(wanted)} tensors {len(missing)} "
            f"are missing or have another shape: {names}{more}. It must hold the state_dict of "
            f"MONAI's network with the settings of {victim} in salm_dicom.victims"
        )
    inner.load_state_dict({k: v for k, v in found.items() if v is not None}, strict=False)
    return [one for name, one in inner.named_parameters() if name in last]


def _last_layer(
    network: nn.Module, victim: str, outputs: int, size: tuple[int, ...]
) -> frozenset[str]:
    """Return the names, in MONAI's network, of the tensors that depend on the number of outputs."""
    mine, other = network.state_dict(), build_victim(victim, outputs + 1, size, 0).state_dict()
    prefix = "network." if isinstance(network, AtLeast | Padded) else ""
    differ = (name for name, one in mine.items() if one.shape != other[name].shape)
    return frozenset(name.removeprefix(prefix) for name in differ)


def _fitting(given: Tensor | None, wanted: Tensor) -> Tensor | None:
    """Return weights of the wanted shape, or None."""
    if given is None:
        return None
    if given.shape != wanted.shape and given.ndim > 1 and given.shape[1] == _COLOURS:
        given = given.sum(1, keepdim=True)
    return given.to(wanted.dtype) if given.shape == wanted.shape else None


def _tensors(folder: Path, victim: str) -> Mapping[str, Tensor]:
    try:
        return load_tensors(_read(folder, victim))
    except SafetensorError as error:
        raise PlanError(
            f"{victim}.safetensors cannot be read as safetensors; write it with "
            "safetensors.torch.save_file(network.state_dict(), ...)"
        ) from error


def _read(folder: Path, victim: str) -> bytes:
    try:
        return (folder / f"{victim}.safetensors").read_bytes()
    except OSError as error:
        raise PlanError(
            f"no {victim}.safetensors in the folder of weights ({error.strerror}); every victim "
            "needs one: its state_dict in MONAI, or choose others with --victims"
        ) from error
