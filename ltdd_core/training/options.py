"""The options of a training."""

from __future__ import annotations

from typing import Literal

from ltdd_core.options import BaseOptions, option


class TrainingOptions(BaseOptions):
    """How one network is trained.  SGD as in the evaluation of DC's public code.

    The step schedule of that code has one epoch more before the learning rate drops, epochs + 1 in all, and loses the
    momentum at the drop, where it makes a new optimizer.
    """

    epochs: int = option(300, "passes over the images", source="DC, public code: 300, or 1000 with DSA", ge=1)
    lr: float = option(0.01, "initial learning rate", source="DC, public code", gt=0)
    momentum: float = option(0.9, "momentum of SGD", source="DC, public code", ge=0, lt=1)
    weight_decay: float = option(5e-4, "weight decay of SGD", source="DC, public code", ge=0)
    batch: int = option(256, "images in a step", source="DC, public code", ge=1)
    schedule: Literal["step", "cosine", "constant"] = option(
        "step",
        "course of the learning rate: step, x0.1 after epochs // 2 + 1 epochs; cosine, down to 0; or constant",
        source="DC, public code",
    )
    mixup: float = option(
        0.0,
        "alpha of mixup, which mixes pairs of images in parts drawn from Beta(alpha, alpha); 0: no mixup",
        source="Zhang et al., ICLR 2018",
        ge=0,
    )
