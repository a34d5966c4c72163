"""Networks of timm (Wightman, "PyTorch Image Models"), with random weights or those of a file."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from pydantic import field_validator
from torch import nn

from ltdd_core import Backbone, InputError, option, unknown


class TimmNetwork(Backbone):
    """A model of timm; features are its pooled ones, before the classifier."""

    argument = "model"

    class Options(Backbone.Options):
        """The model."""

        model: str = option("resnet18", "model, as timm.list_models() names it", validate_default=True)

        @field_validator("model")
        @classmethod
        def _there_is_one(cls, model: str) -> str:
            models = _timm().list_models()
            if model not in models:
                raise ValueError(str(unknown("model of timm", model, models)))
            return model

    def model(self, channels: int, size: tuple[int, int], options: Any) -> tuple[nn.Module, str]:
        """Made for the channels of the images, and for their size where the model has one of its own."""
        timm = _timm()
        facts = timm.get_pretrained_cfg(options.model, allow_unregistered=False)
        fixed = {"img_size": size} if facts and facts.fixed_input_size else {}
        body = timm.create_model(options.model, pretrained=False, in_chans=channels, num_classes=0, **fixed)
        layer = body.default_cfg.get("classifier") or "fc"
        return body, layer if isinstance(layer, str) else layer[0]


def _timm() -> Any:
    if find_spec("timm") is None:
        raise InputError("timm is not installed: pip install 'ltdd[timm]'.")
    return import_module("timm")
