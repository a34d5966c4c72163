"""Sampling by the effective number of images (Cui et al., CVPR 2019, equation 3; as in LDAM-DRW's code)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltdd_core import BaseOptions, ByClassSampler, option


class EffectiveNumberSampler(ByClassSampler):
    """An image of class c weighs (1 - beta) / (1 - beta^n_c), so p_c ~ n_c (1 - beta) / (1 - beta^n_c)."""

    class Options(BaseOptions):
        """How near to class-balanced."""

        beta: float = option(
            0.9999,
            "beta of the effective number: at 0 as instance, near 1 class-balanced",
            source="LDAM-DRW, public code",
            ge=0,
            lt=1,
        )

    def weights(self, progress: float) -> Tensor:
        """What the probabilities of the classes are proportional to, float64 ``[classes]``."""
        beta: float = self.options.beta
        if beta == 0:
            return self.counts
        # 1 - beta^n would lose its digits where beta is almost 1.
        return self.counts * (1 - beta) / -torch.expm1(self.counts * math.log(beta))
