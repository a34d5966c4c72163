"""Networks of torchvision.models, with random weights or those of a file."""

from __future__ import annotations

from typing import Any

import torchvision
from pydantic import field_validator
from torch import nn

from ltdd_core import Backbone, option, unknown

COLOURS = 3
"""Channels of the images that torchvision's models are for."""
LEFT_OUT = ("squeezenet", "mnasnet")
"""Families of models whose last layer is a convolution, or whose weights do not load from tensors alone."""
AUXILIARY = {"aux_logits": False, "init_weights": True}
"""Without the second classifiers that these models have while they are trained."""
ARGUMENTS = {"googlenet": AUXILIARY, "inception_v3": AUXILIARY}


class TorchvisionNetwork(Backbone):
    """A classification model of torchvision; features are what its last layer is given."""

    argument = "model"

    class Options(Backbone.Options):
        """The model."""

        model: str = option("resnet18", "model, as torchvision.models.list_models() names it")

        @field_validator("model")
        @classmethod
        def _there_is_one(cls, model: str) -> str:
            listed = torchvision.models.list_models(module=torchvision.models)
            models = [name for name in listed if not name.startswith(LEFT_OUT)]
            if model not in models:
                raise ValueError(str(unknown("model of torchvision", model, models)))
            return model

    def model(self, channels: int, size: tuple[int, int], options: Any) -> tuple[nn.Module, str]:
        """Made for the size of the images where the model has one of its own; another first layer for other colours."""
        arguments: dict[str, Any] = ARGUMENTS.get(options.model, {})
        if options.model.startswith("vit_"):
            arguments = {"image_size": size[0]}
        body = torchvision.models.get_model(options.model, weights=None, **arguments)
        layers = [name for name, part in body.named_modules() if isinstance(part, nn.Linear)]
        body.set_submodule(layers[-1], nn.Identity())
        if channels != COLOURS:
            _replace_first(body, channels)
        return body, layers[-1]


def _replace_first(body: nn.Module, channels: int) -> None:
    """A first convolution of the same kind, for other images than coloured ones."""
    name, first = next((name, part) for name, part in body.named_modules() if isinstance(part, nn.Conv2d))
    kind: dict[str, Any] = {
        key: getattr(first, key) for key in ("out_channels", "kernel_size", "stride", "padding", "dilation")
    }
    body.set_submodule(name, nn.Conv2d(channels, **kind, bias=first.bias is not None))
