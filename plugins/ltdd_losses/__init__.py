"""Heads whose loss knows how many images a class has: ``--head class-balanced|focal|balanced-softmax|...``."""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """A linear or cosine layer each, trained with another loss."""
    register("class-balanced", "ltdd_losses.heads:ClassBalancedHead")
    register("focal", "ltdd_losses.heads:FocalHead")
    register("balanced-softmax", "ltdd_losses.heads:BalancedSoftmaxHead")
    register("logit-adjustment", "ltdd_losses.heads:LogitAdjustmentHead")
    register("ldam", "ltdd_losses.heads:MarginHead")
