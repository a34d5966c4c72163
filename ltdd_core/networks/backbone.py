"""Networks whose body is a model of some library."""

from __future__ import annotations

import textwrap
from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ltdd_core.errors import InputError, how_to_set, is_out_of_memory, reason_of
from ltdd_core.networks.network import Network, NetworkOptions, Shape
from ltdd_core.options import option

LONGEST = 100
"""Letters of what a library says, in a message."""


class Backbone(Network):
    """A model of a library without its last layer, and a linear layer in the place of that.

    ::

        class LibraryNetwork(Backbone):
            def model(self, channels, size, options):
                return library.model(in_channels=channels, classes=0), "fc"
    """

    class Options(NetworkOptions):
        """The stem."""

        stem: Literal["standard", "small"] = option(
            "standard",
            "first layers; small: of a ResNet, a 3x3 convolution that keeps the size of the images and no pooling",
        )

    def __init__(self, image_shape: Shape, outputs: int, options: Any) -> None:
        super().__init__()
        channels, height, width = image_shape
        try:
            body, layer = self.model(channels, (height, width), options)
            if options.stem == "small":
                small_stem(body, channels)
            features = _features(body, image_shape)
        except InputError:
            raise
        except Exception as error:  # libraries raise anything
            if is_out_of_memory(error):
                raise
            name = type(self).__name__ if self.argument is None else getattr(options, self.argument)
            reason = textwrap.shorten(reason_of(error), LONGEST, placeholder="...")
            raise InputError(
                f"{name} cannot take images of {height}x{width} ({reason}): use another model, or a larger "
                f"{how_to_set('data.image_size')}."
            ) from error
        self.body, self.linear = body, nn.Linear(features, outputs)
        self.prefixes = {"body.": "", "linear.": f"{layer}."}

    @abstractmethod
    def model(self, channels: int, size: tuple[int, int], options: Any) -> tuple[nn.Module, str]:
        """The model with initial weights and without its last layer: of images ``[n, C, H, W]`` it gives ``[n, D]``.

        Args:
            channels: C.
            size: ``(H, W)``.
            options: of the network.

        Returns:
            The model, and the name of its last layer in files of pretrained weights, such as ``"fc"``.

        Raises:
            Exception: of any kind: it is not for such images.
        """

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]``: what the model gives without its last layer."""
        features: Tensor = self.body(images)
        return features


def small_stem(body: nn.Module, channels: int) -> None:
    """Give a ResNet the stem of small images: a 3x3 convolution of stride 1, and no pooling.

    Args:
        body: has ``conv1`` and ``maxpool``, as those of torchvision and of timm have.
        channels: C of the images.

    Raises:
        InputError: it has none.
    """
    first = getattr(body, "conv1", None)
    if not (isinstance(first, nn.Conv2d) and hasattr(body, "maxpool")):
        raise InputError(f"only plain ResNets have a small stem: leave out {how_to_set('network.stem', 'small')}.")
    body.conv1 = nn.Conv2d(channels, first.out_channels, 3, padding=1, bias=False)
    body.maxpool = nn.Identity()


def _features(body: nn.Module, image_shape: Shape) -> int:
    """D, the number of features of each image.

    Raises:
        Exception: the model cannot take such images, or gives no finite features.
    """
    with torch.no_grad():
        features = body.eval()(torch.zeros(1, *image_shape))
    body.train()
    if not (isinstance(features, Tensor) and features.dim() == 2 and features.shape[1]):
        raise ValueError("it gives no features [n, D]")
    if not torch.isfinite(features).all():
        raise ValueError("nothing is left of them in it")
    return features.shape[1]
