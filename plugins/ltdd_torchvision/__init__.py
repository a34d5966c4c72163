"""The classification models of torchvision: ``--network torchvision:resnet50``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_networks(register: Register) -> None:
    """All models of torchvision, as one network."""
    register("torchvision", "ltdd_torchvision.network:TorchvisionNetwork")
