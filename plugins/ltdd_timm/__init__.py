"""The models of timm: ``--network timm:resnet18``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_networks(register: Register) -> None:
    """All models of timm, as one network."""
    register("timm", "ltdd_timm.network:TimmNetwork")
