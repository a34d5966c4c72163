"""The q-power family (Kang et al., "Decoupling Representation and Classifier", ICLR 2020, equation 1).

An epoch of training draws as many images as there are, class c with probability n_c^q / sum_j n_j^q and
an image of the class uniformly: q = 1/2 is square-root sampling, q = 0 is class-balanced sampling.  q = 1 is
instance-balanced sampling, the core's ``instance``, which takes every image exactly once.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ltdd_core import ByClassSampler


class PowerSampler(ByClassSampler):
    """Draws class c with p_c ~ n_c^q; a subclass says q."""

    q: ClassVar[float]

    def weights(self, progress: float) -> Tensor:
        """n_c^q, float64 ``[classes]``."""
        return self.counts**self.q


class SquareRootSampler(PowerSampler):
    """Between instance-balanced and class-balanced: p_c ~ n_c^(1/2)."""

    q = 0.5


class ClassBalancedSampler(PowerSampler):
    """Every class with the same probability: p_c = 1 / C."""

    q = 0.0
