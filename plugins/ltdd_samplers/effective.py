"""Sampling by the effective number of images (Cui et al., CVPR 2019, equation 3; as in LDAM-DRW's code)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltdd_core import BaseOptions, ByClassSampler, option


class EffectiveNumberSampler(ByClassSampler):
    """Images weighted by the effective number of their class: p_c ~ n_c (1 - beta) / (1 - beta^n_c)."""

    class Options(BaseOptions):
        """The weights of the classes."""

        beta: float = option(
            0.9999,
            "beta of the effective number: 0 is the sampler instance, values near 1 are close to class-balanced",
            source="LDAM-DRW, public code",
            ge=0,
            lt=1,
        )

    def weights(self, progress: float) -> Tensor | None:
        """What the probabilities of the classes are proportional to, float64 ``[classes]``; None for beta 0."""
        beta: float = self.options.beta
        if beta == 0:
            return None
        # 1 - beta^n would lose its digits where beta is almost 1.
        return self.counts * (1 - beta) / -torch.expm1(self.counts * math.log(beta))
