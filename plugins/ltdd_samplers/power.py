"""The q-power family (Kang et al., "Decoupling Representation and Classifier", ICLR 2020, equation 1).

An epoch of training draws as many images as there are, class c with probability n_c^q / sum_j n_j^q and
an image of the class uniformly: q = 1 sees each image alike (and, as everywhere, exactly once), q = 1/2 is
square-root sampling, q = 0 shows every class alike.  Draws of one class are uniform for every q.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ltdd_samplers.by_class import ByClassSampler


class PowerSampler(ByClassSampler):
    """Draws class c with p_c ~ n_c^q; a subclass says q."""

    q: ClassVar[float]

    def weights(self, progress: float) -> Tensor:
        """n_c^q, float64 ``[classes]``."""
        return self.counts**self.q


class InstanceSampler(PowerSampler):
    """q = 1: every image once an epoch."""

    q = 1.0

    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """All images in a new order."""
        return torch.randperm(len(self.labels), generator=generator)


class SquareRootSampler(PowerSampler):
    """q = 1/2: between every image and every class alike."""

    q = 0.5


class ClassBalancedSampler(PowerSampler):
    """q = 0: every class alike."""

    q = 0.0
