"""VICTIMS and SEGMENTERS: the networks that an audit trains; none is a surrogate's architecture.

Importing this needs no torch; a network brings it along when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# What is left after a network has halved its input four or five times must not be empty.
_HALVED_FOUR_TIMES, _HALVED_FIVE_TIMES = 16, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of MONAI, for images (2-D) or volumes (3-D) of one channel.

    Parameters
    ----------
    name
        Module and class in `monai.networks.nets`.
    settings
        Its arguments but for dimensions, channels and outputs.
    channels, outputs
        What it calls the number of these.
    least
        Images with a shorter edge are zero-padded to it.
    multiple
        Images are zero-padded to edges that are a multiple of this, and masks are cut back.
    """

    name: str
    settings: Mapping[str, Any]
    channels: str = "in_channels"
    outputs: str = "out_channels"
    least: int = 1
    multiple: int = 1

    def __call__(self, outputs: int, size: tuple[int, ...]) -> nn.Module:
        """Return the network, untrained, for images of `size`."""
        from salm_dicom.networks import AtLeast, Padded

        module, name = self.name.split(".")
        make = getattr(import_module(f"monai.networks.nets.{module}"), name)
        given = {"spatial_dims": len(size), self.channels: 1, self.outputs: outputs}
        network: nn.Module = make(**given, **self.settings)
        if self.least > 1:
            return AtLeast(self.least, network)
        return Padded(self.multiple, network) if self.multiple > 1 else network


def _convnet(classes: int, size: tuple[int, ...]) -> nn.Module:
    from monai.networks.nets.classifier import Classifier

    return Classifier(
        in_shape=(1, *size), classes=classes, channels=(16, 32, 64), strides=(2, 2, 2)
    )


# The first three are small enough for a processor.
VICTIMS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    # full resolution in the first stage, where the surrogate halves it
    "resnet-10": Network(
        name="resnet.ResNet",
        channels="n_input_channels",
        outputs="num_classes",
        settings={
            "block": "basic",
            "layers": [1, 1, 1, 1],
            "block_inplanes": [8, 16, 32, 64],
            "conv1_t_size": 3,
            "conv1_t_stride": 1,
            "no_max_pool": True,
        },
    ),
    "densenet-small": Network(
        name="densenet.DenseNet",
        least=_HALVED_FOUR_TIMES,
        settings={"init_features": 16, "growth_rate": 8, "block_config": (3, 3, 3)},
    ),
    # no skip connections, instance normalisation, a linear layer over places: unlike the others
    "convnet": _convnet,
    "seresnet-small": Network(
        name="senet.SENet",
        outputs="num_classes",
        settings={
            "block": "se_resnet_bottleneck",
            "layers": (1, 1, 1, 1),
            "groups": 1,
            "reduction": 16,
            "dropout_prob": None,
            "inplanes": 64,
            "downsample_kernel_size": 1,
            "input_3x3": False,
        },
    ),
    "resnet-18": Network(
        name="resnet.resnet18",
        channels="n_input_channels",
        outputs="num_classes",
        settings={"conv1_t_size": 3, "conv1_t_stride": 2, "no_max_pool": True},
    ),
    "densenet-121": Network(name="densenet.DenseNet121", least=_HALVED_FIVE_TIMES, settings={}),
    "efficientnet-b0": Network(
        name="efficientnet.EfficientNetBN",
        outputs="num_classes",
        least=_HALVED_FIVE_TIMES,
        settings={"model_name": "efficientnet-b0", "pretrained": False},
    ),
}

# The same for masks; outputs are the classes and none of them.
SEGMENTERS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    # wider, shallower, no residual units and batch normalisation, where the surrogate has them
    "unet-wide": Network(
        name="unet.UNet",
        multiple=4,
        settings={
            "channels": (24, 48, 96),
            "strides": (2, 2),
            "num_res_units": 0,
            "norm": "batch",
        },
    ),
    "attention-unet": Network(
        name="attentionunet.AttentionUnet",
        multiple=4,
        settings={"channels": (12, 24, 48), "strides": (2, 2)},
    ),
    "segresnet": Network(name="segresnet.SegResNet", multiple=8, settings={"init_filters": 8}),
}


def build_victim(name: str, outputs: int, size: tuple[int, ...], seed: int) -> nn.Module:
    """Return an untrained victim for images of `size`; its weights depend on the seed alone.

    Parameters
    ----------
    name
        A key of `VICTIMS` or `SEGMENTERS`.
    size
        Rows and columns, or slices, rows and columns.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (VICTIMS | SEGMENTERS)[name](outputs, size)
