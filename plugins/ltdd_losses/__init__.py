"""Heads with a loss for long-tailed sets, and their training in the tables of long-tailed recognition.

``--head class-balanced|focal|balanced-softmax|logit-adjustment|ldam|glmc``
``--preset ce-200|drw-200|ldam-drw-200|mixup-drw-200|balanced-softmax-200``
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


@hookimpl
def ltdd_register_presets(register: Register) -> None:
    """ResNet-32 for 200 epochs, with five losses."""
    register("ce-200", "ltdd_losses.presets:CE")
    register("drw-200", "ltdd_losses.presets:DRW")
    register("ldam-drw-200", "ltdd_losses.presets:LDAM_DRW")
    register("mixup-drw-200", "ltdd_losses.presets:MIXUP_DRW")
    register("balanced-softmax-200", "ltdd_losses.presets:BALANCED_SOFTMAX")
