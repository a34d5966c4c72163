"""Progressively balanced sampling (Kang et al., ICLR 2020, equation 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core import ByClassSampler


class ProgressiveSampler(ByClassSampler):
    """From instance-balanced in the first epoch to class-balanced in the last: p_c = (1 - t) n_c / N + t / C."""

    def weights(self, progress: float) -> Tensor:
        """Probabilities of the classes, float64 ``[classes]``."""
        by_image = self.counts / self.counts.sum()
        by_class = torch.full_like(by_image, 1 / len(by_image))
        return (1 - progress) * by_image + progress * by_class
