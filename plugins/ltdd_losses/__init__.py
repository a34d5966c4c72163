"""Heads with a loss for long-tailed sets.

``--head class-balanced|focal|balanced-softmax|logit-adjustment|ldam|glmc``
"""

from __future__ import annotations

from ltdd_core import Register, hookimpl


@hookimpl
def ltdd_register_heads(register: Register) -> None:
    """Six heads; each has its loss."""
    register("class-balanced", "ltdd_losses.heads:ClassBalancedHead")
    register("focal", "ltdd_losses.heads:FocalHead")
    register("balanced-softmax", "ltdd_losses.heads:BalancedSoftmaxHead")
    register("logit-adjustment", "ltdd_losses.heads:LogitAdjustmentHead")
    register("ldam", "ltdd_losses.heads:MarginHead")
    register("glmc", "ltdd_losses.two_layers:CumulativeHead")
