"""The networks of the field: the ConvNet family, two ResNets, VGG11 and AlexNet for small images, and an MLP."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltdd_core.errors import InputError, how_to_set
from ltdd_core.networks.network import Network, NetworkOptions, Shape
from ltdd_core.options import option

Norm = Callable[[int], nn.Module]

GROUPS = 4  # of group normalisation; DC's public code
DEPTH, SMALLEST_MAP = 3, 4  # of the ConvNet, unless given: its blocks, and the pixels a side that each has to see


class AveragePool(nn.AvgPool2d):
    """Means of 2x2 pixels; the kernel of torch takes a third of a training step in bf16 on a CPU, and this a tenth."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``[n, C, H // 2, W // 2]`` of maps ``[n, C, H, W]``."""
        count, channels, height, width = maps.shape
        slow = maps.dtype == torch.bfloat16 and maps.device.type == "cpu" and not torch.compiler.is_compiling()
        if not slow or height % 2 or width % 2:
            return super().forward(maps)
        upper, lower = maps.view(count, channels, height // 2, 2, width).unbind(3)
        left, right = (upper + lower).view(count, channels, height // 2, width // 2, 2).unbind(4)
        return (left + right) / 4


class ConvNet(Network):
    """Blocks of 3x3 convolution, normalisation, activation and pooling, as in DC, DM and MTT.

    Features are the flattened last map: 2,048 for depth 3, width 128 and 32x32 images.
    """

    class Options(NetworkOptions):
        """The field's ConvNet-D3 unless told otherwise, or unless images are smaller than the field's."""

        depth: int | None = option(
            None,
            "number of blocks; each halves the image",
            source="DC, public code",
            ge=1,
            le=8,
            unless_given=f"{DEPTH}, or fewer if a block would see less than {SMALLEST_MAP}x{SMALLEST_MAP} pixels",
        )
        width: int = option(128, "channels of every block", source="DC, public code", ge=1)
        norm: Literal["instance", "batch", "layer", "group", "none"] = option(
            "instance", "normalisation; instance has affine parameters", source="DC, public code"
        )
        activation: Literal["relu", "leaky-relu", "sigmoid"] = option("relu", "activation", source="DC, public code")
        pooling: Literal["avg", "max", "none"] = option("avg", "2x2 pooling", source="DC, public code")

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        channels, height, width = image_shape
        if options.norm == "group" and options.width % GROUPS:
            raise InputError(
                f"norm 'group' makes {GROUPS} groups: use {how_to_set('network.width', 'N')}, a multiple of {GROUPS}."
            )
        depth = options.depth or self._fitting_depth(height, width, options)
        blocks: list[nn.Module] = []
        for _ in range(depth):
            if options.pooling != "none" and min(height, width) < 2:
                raise InputError(
                    f"images of {_size(image_shape)} are too small for a ConvNet of depth "
                    f"{depth}: use {how_to_set('network.depth', 'N')} with a smaller N, or a larger "
                    f"{how_to_set('data.image_size')}."
                )
            blocks += self._block(channels, height, width, options)
            channels = options.width
            if options.pooling != "none":
                height, width = height // 2, width // 2
        self.features = nn.Sequential(*blocks)
        self.linear = nn.Linear(channels * height * width, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Flattened maps ``[n, width * h * w]`` of the last block."""
        return self.features(images).flatten(1)

    @staticmethod
    def _fitting_depth(height: int, width: int, options: Any) -> int:
        """Instance normalisation leaves hardly anything of a map of 2x2 pixels: all such maps have the same mean."""
        seen = [min(height, width) // 2**block for block in range(1, DEPTH)]
        return DEPTH if options.pooling == "none" else 1 + sum(side >= SMALLEST_MAP for side in seen)

    @staticmethod
    def _block(channels: int, height: int, width: int, options: Any) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(channels, options.width, 3, padding=1)]
        if options.norm == "instance":
            layers.append(nn.GroupNorm(options.width, options.width))
        elif options.norm == "group":
            layers.append(nn.GroupNorm(GROUPS, options.width))
        elif options.norm == "batch":
            layers.append(nn.BatchNorm2d(options.width))
        elif options.norm == "layer":
            layers.append(nn.LayerNorm([options.width, height, width]))
        layers.append(
            {"relu": nn.ReLU(), "leaky-relu": nn.LeakyReLU(0.01), "sigmoid": nn.Sigmoid()}[options.activation]
        )
        if options.pooling != "none":
            layers.append(AveragePool(2) if options.pooling == "avg" else nn.MaxPool2d(2))
        return layers


class ResNet18(Network):
    """ResNet-18 (He et al., 2016) with the small-image stem: 3x3 convolution, stride 1, no pooling."""

    class Options(NetworkOptions):
        """Width and normalisation of the residual blocks."""

        width: int = option(
            64, "channels of the first of four stages; each further one has twice as many", source="torchvision", ge=1
        )
        norm: Literal["instance", "batch"] = option(
            "batch", "normalisation; instance does not depend on the batch", source="torchvision"
        )

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        _check_maps("ResNet-18", image_shape, 8, options)
        self.body = _residual(image_shape[0], [options.width * 2**stage for stage in range(4)], 2, options, _projected)
        self.linear = nn.Linear(options.width * 8, outputs)
        self.prefixes = {"body.": "", "linear.": "fc."}

    def embed(self, images: Tensor) -> Tensor:
        """Averaged maps ``[n, 8 * width]`` of the last stage."""
        features: Tensor = self.body(images)
        return features


class ResNet32(Network):
    """ResNet-32 for small images (He et al., 2016, section 4.2): what the tables of long-tailed recognition use.

    Where a stage has more channels than the one before, the shortcut is every second pixel, and zeros for the further
    channels: option A of the paper.
    """

    class Options(NetworkOptions):
        """Width and normalisation of the residual blocks."""

        width: int = option(
            16, "channels of the first of three stages; each further one has twice as many", source="paper 4.2", ge=1
        )
        norm: Literal["instance", "batch"] = option(
            "batch", "normalisation; instance does not depend on the batch", source="paper 4.2"
        )

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        _check_maps("ResNet-32", image_shape, 4, options)
        self.body = _residual(image_shape[0], [options.width * 2**stage for stage in range(3)], 5, options, _Padded)
        self.linear = nn.Linear(options.width * 4, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Averaged maps ``[n, 4 * width]`` of the last stage."""
        features: Tensor = self.body(images)
        return features


class VGG11(Network):
    """VGG11's convolutions (Simonyan & Zisserman, 2015); average pooling and one linear layer on top."""

    class Options(NetworkOptions):
        """Normalisation after each convolution."""

        norm: Literal["instance", "batch", "none"] = option(
            "instance", "normalisation", source="DC, public code: VGG11 with instance norm"
        )

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        channels, layers, side = image_shape[0], list[nn.Module](), min(image_shape[1:])
        if max(image_shape[1:]) < 2:
            raise InputError(
                f"VGG11 needs images larger than {_size(image_shape)}: use {how_to_set('network.name', 'mlp')}."
            )
        for item in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512):
            if isinstance(item, int):
                layers.append(nn.Conv2d(channels, item, 3, padding=1))
                layers += _norm_layers(options.norm, item)
                layers.append(nn.ReLU())
                channels = item
            elif side >= 4:  # a map of one pixel is nothing but zero after instance normalisation
                layers.append(nn.MaxPool2d(2))
                side //= 2
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.linear = nn.Linear(channels, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Averaged maps ``[n, 512]``."""
        return self.features(images).flatten(1)


class AlexNet(Network):
    """AlexNet's five convolutions sized for small images, and one linear layer on top, as in DC's code."""

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        if min(image_shape[1:]) < 8:
            raise InputError(
                f"AlexNet needs images of at least 8x8, not {_size(image_shape)}: "
                f"use another {how_to_set('network.name')}, or a larger {how_to_set('data.image_size')}."
            )
        self.features = nn.Sequential(
            nn.Conv2d(image_shape[0], 128, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(192, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 192, 3, padding=1), nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.linear = nn.Linear(192 * (image_shape[1] // 8) * (image_shape[2] // 8), outputs)

    def embed(self, images: Tensor) -> Tensor:
        """Flattened maps ``[n, 192 * H/8 * W/8]``."""
        return self.features(images).flatten(1)


class MLP(Network):
    """Fully connected layers."""

    class Options(NetworkOptions):
        """Size of the hidden layers."""

        width: int = option(128, "units of a hidden layer", source="DC, public code", ge=1)
        depth: int = option(2, "hidden layers", source="DC, public code", ge=1, le=100)

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        size, layers = image_shape[0] * image_shape[1] * image_shape[2], list[nn.Module]()
        for _ in range(options.depth):
            layers += [nn.Linear(size, options.width), nn.ReLU()]
            size = options.width
        self.features = nn.Sequential(nn.Flatten(), *layers)
        self.linear = nn.Linear(size, outputs)

    def embed(self, images: Tensor) -> Tensor:
        """The last hidden layer, ``[n, width]``."""
        features: Tensor = self.features(images)
        return features


def _size(image_shape: Shape) -> str:
    return f"{image_shape[1]}x{image_shape[2]}"


def _check_maps(name: str, image_shape: Shape, one_pixel: int, options: Any) -> None:
    if options.norm == "instance" and max(image_shape[1:]) <= one_pixel:  # the last maps have one pixel
        raise InputError(
            f"{name} with instance normalisation needs images larger than {one_pixel}x{one_pixel}, not "
            f"{_size(image_shape)}: use {how_to_set('network.norm', 'batch')}, or another {how_to_set('network.name')}."
        )


def _residual(
    channels: int, widths: Sequence[int], blocks: int, options: Any, shortcut: Callable[[int, int, Norm], nn.Module]
) -> nn.Module:
    """Stages of residual blocks; all but the first halve the maps.  Its parts have torchvision's names."""
    from torchvision.models.resnet import BasicBlock  # takes a second

    norm = nn.BatchNorm2d if options.norm == "batch" else _instance_norm
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(channels, widths[0], 3, padding=1, bias=False),
        "bn1": norm(widths[0]),
        "relu": nn.ReLU(),
    }
    before = widths[0]
    for stage, width in enumerate(widths, start=1):
        halve = [2, shortcut(before, width, norm)] if stage > 1 else []
        first = BasicBlock(before, width, *halve, norm_layer=norm)
        parts[f"layer{stage}"] = nn.Sequential(
            first, *[BasicBlock(width, width, norm_layer=norm) for _ in range(blocks - 1)]
        )
        before = width
    body = nn.Sequential(OrderedDict(parts, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def _projected(before: int, after: int, norm: Norm) -> nn.Module:
    """The shortcut of He et al.'s option B."""
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), norm(after))


class _Padded(nn.Module):
    """The shortcut of option A: half of the further channels before the others, half behind."""

    def __init__(self, before: int, after: int, norm: Norm) -> None:
        super().__init__()
        self.further = after - before

    def forward(self, maps: Tensor) -> Tensor:
        before = self.further // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, before, self.further - before))


def _instance_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


def _norm_layers(norm: str, channels: int) -> Sequence[nn.Module]:
    if norm == "none":
        return []
    return [_instance_norm(channels) if norm == "instance" else nn.BatchNorm2d(channels)]
