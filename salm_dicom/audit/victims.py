"""VICTIMS and SEGMENTERS: the networks that an audit trains; none is a surrogate's architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.blocks.squeeze_and_excitation import SEResNetBottleneck
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.classifier import Classifier
from monai.networks.nets.densenet import DenseNet, DenseNet121
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.resnet import ResNet, resnet18
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.senet import SENet
from monai.networks.nets.unet import UNet
from torch import nn
from torch.nn import functional

from salm_dicom.objectives import Padded

# What is left after a network has halved its input four or five times must not be empty.
_HALVED_FOUR_TIMES, _HALVED_FIVE_TIMES = 16, 32


class _AtLeast(nn.Module):
    """A network whose input is zero-padded, on all sides, to the smallest it can take."""

    def __init__(self, side: int, network: nn.Module) -> None:
        super().__init__()
        self.side = side
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's output for images or volumes of one channel."""
        padding: list[int] = []
        for side in reversed(images.shape[2:]):
            missing = max(self.side - side, 0)
            padding += [missing // 2, missing - missing // 2]
        out: torch.Tensor = self.network(functional.pad(images, padding))
        return out


def _resnet(classes: int, size: tuple[int, ...]) -> nn.Module:
    # full resolution in the first stage, where the surrogate halves it
    return ResNet(
        block="basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 16, 32, 64],
        spatial_dims=len(size),
        n_input_channels=1,
        conv1_t_size=3,
        conv1_t_stride=1,
        no_max_pool=True,
        num_classes=classes,
    )


def _resnet18(classes: int, size: tuple[int, ...]) -> nn.Module:
    return resnet18(
        spatial_dims=len(size),
        n_input_channels=1,
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=classes,
    )


def _densenet(classes: int, size: tuple[int, ...]) -> nn.Module:
    network = DenseNet(
        spatial_dims=len(size),
        in_channels=1,
        out_channels=classes,
        init_features=16,
        growth_rate=8,
        block_config=(3, 3, 3),
    )
    return _AtLeast(_HALVED_FOUR_TIMES, network)


def _seresnet(classes: int, size: tuple[int, ...]) -> nn.Module:
    return SENet(
        spatial_dims=len(size),
        in_channels=1,
        block=SEResNetBottleneck,
        layers=(1, 1, 1, 1),
        groups=1,
        reduction=16,
        dropout_prob=None,
        inplanes=64,
        downsample_kernel_size=1,
        input_3x3=False,
        num_classes=classes,
    )


def _densenet121(classes: int, size: tuple[int, ...]) -> nn.Module:
    network = DenseNet121(spatial_dims=len(size), in_channels=1, out_channels=classes)
    return _AtLeast(_HALVED_FIVE_TIMES, network)


def _efficientnet_b0(classes: int, size: tuple[int, ...]) -> nn.Module:
    network = EfficientNetBN(
        "efficientnet-b0",
        pretrained=False,
        spatial_dims=len(size),
        in_channels=1,
        num_classes=classes,
    )
    return _AtLeast(_HALVED_FIVE_TIMES, network)


def _convnet(classes: int, size: tuple[int, ...]) -> nn.Module:
    # no skip connections, instance normalisation, a linear layer over places: unlike the others
    return Classifier(
        in_shape=(1, *size), classes=classes, channels=(16, 32, 64), strides=(2, 2, 2)
    )


def _wide_unet(outputs: int, size: tuple[int, ...]) -> nn.Module:
    # wider, shallower, no residual units and batch normalisation, where the surrogate has them
    network = UNet(
        spatial_dims=len(size),
        in_channels=1,
        out_channels=outputs,
        channels=(24, 48, 96),
        strides=(2, 2),
        num_res_units=0,
        norm="batch",
    )
    return Padded(4, network)


def _attention_unet(outputs: int, size: tuple[int, ...]) -> nn.Module:
    network = AttentionUnet(
        spatial_dims=len(size),
        in_channels=1,
        out_channels=outputs,
        channels=(12, 24, 48),
        strides=(2, 2),
    )
    return Padded(4, network)


def _segresnet(outputs: int, size: tuple[int, ...]) -> nn.Module:
    network = SegResNet(spatial_dims=len(size), init_filters=8, in_channels=1, out_channels=outputs)
    return Padded(8, network)


# For images (2-D) or volumes (3-D) of one channel. The first three are small enough for a
# processor.
VICTIMS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    "resnet-10": _resnet,
    "densenet-small": _densenet,
    "convnet": _convnet,
    "seresnet-small": _seresnet,
    "resnet-18": _resnet18,
    "densenet-121": _densenet121,
    "efficientnet-b0": _efficientnet_b0,
}


# The same for masks; outputs are the classes and none of them.
SEGMENTERS: dict[str, Callable[[int, tuple[int, ...]], nn.Module]] = {
    "unet-wide": _wide_unet,
    "attention-unet": _attention_unet,
    "segresnet": _segresnet,
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (VICTIMS | SEGMENTERS)[name](outputs, size)
