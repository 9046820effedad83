"""Segmentation models that the user names: a TorchScript file, or the folder of a MONAI bundle.

Both run the code that they hold: name only models that you trust.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from salm_dicom.errors import PlanError
from salm_dicom.fidelity.subject import Segmenter
from salm_dicom.volume import Floats

# What a bundle does to read files; the volume is in memory already.
_READING = {"LoadImaged", "EnsureChannelFirstd", "AddChanneld", "LoadImageD", "EnsureChannelFirstD"}
_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


def load_segmenter(path: Path) -> Segmenter:
    """Return a model as a function.

    A TorchScript module gets modality values, float32 of (1, 1, slices, rows, columns) or, if it
    takes no volumes, (slices, 1, rows, columns), and returns scores of (batch, classes, ...): the
    highest wins, and a single class counts above 0. Of a bundle the network, weights, preprocessing
    (but for reading) and inferer of `configs/inference` are used.

    Raises
    ------
    PlanError
        There is no such model, or it cannot be loaded.
    """
    try:
        return _bundle(path) if path.is_dir() else _script(path)
    except PlanError:
        raise
    except Exception as error:  # a model is code of its own: whatever it raises is about the model
        raise PlanError(f"the model cannot be loaded ({type(error).__name__})") from error


def _script(path: Path) -> Segmenter:
    module = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def segment(values: NDArray[np.float32], _: Floats) -> NDArray[np.int64]:
        slices = torch.from_numpy(values)[:, None]
        with torch.no_grad():
            try:
                scores = module(slices.movedim(0, 1)[None])
            except RuntimeError:  # takes no volumes
                return _labels(module(slices))
        found: NDArray[np.int64] = _labels(scores)[0]
        return found

    return segment


def _bundle(path: Path) -> Segmenter:
    configs = [path / "configs" / name for name in _CONFIGS]
    config = next((one for one in configs if one.is_file()), None)
    if config is None:
        raise PlanError(f"a bundle needs one of {', '.join(_CONFIGS)} in its configs")
    parser = ConfigParser()
    parser.read_config(str(config))
    parser["bundle_root"] = str(path)
    if "device" in parser:
        parser["device"] = "$torch.device('cpu')"
    network: Any = parser.get_parsed_content("network_def")
    weights = torch.load(path / "models" / "model.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(weights)
    network.eval()
    steps = getattr(parser.get_parsed_content("preprocessing"), "transforms", ())
    kept = [step for step in steps if type(step).__name__ not in _READING]
    inferer: Any = parser.get_parsed_content("inferer")

    def segment(values: NDArray[np.float32], affine: Floats) -> NDArray[np.int64]:
        image = torch.from_numpy(np.ascontiguousarray(values.transpose()))[None]
        found: dict[str, Any] = {"image": MetaTensor(image, affine=torch.from_numpy(affine))}
        for step in kept:
            found = step(found)
        with torch.no_grad():
            scores = inferer(found["image"][None].as_tensor(), network)
        labels: NDArray[np.int64] = _labels(scores)[0]
        return labels

    return segment


def _labels(scores: torch.Tensor) -> NDArray[np.int64]:
    """Return the class of each voxel, (batch, ...), of scores (batch, classes, ...)."""
    if scores.shape[1] == 1:
        return np.asarray((scores[:, 0] > 0).numpy().astype(np.int64))
    return np.asarray(scores.argmax(dim=1).numpy())
