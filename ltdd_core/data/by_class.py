"""Samplers that choose a class first and then any of its images; ``instance`` is the plain one."""

from __future__ import annotations

import torch
from torch import Tensor

from ltdd_core.data.longtail import members_of
from ltdd_core.data.sampler import Features, Sampler, draw_by_class
from ltdd_core.data.sets import LongTailedSet


class ByClassSampler(Sampler):
    """Draws class c with a probability proportional to its weight, then any image of the class.

    A subclass gives the weights in :meth:`weights`; without them an epoch has every image once.  Draws of one class
    are uniform and without repetition, whatever the weights.
    """

    labels: Tensor
    """Of the training images, int64 ``[N]`` on the CPU."""
    members: list[Tensor]
    """Indices of the images of each class, int64 ``[n_c]``."""
    counts: Tensor
    """Images of each class, float64 ``[classes]``."""

    def prepare(self, data: LongTailedSet) -> None:
        """Remember which images belong to which class."""
        self.labels = data.train_labels.cpu()
        self.members = members_of(self.labels, data.classes)
        self.counts = torch.tensor([len(indices) for indices in self.members], dtype=torch.float64)

    def weights(self, progress: float) -> Tensor | None:
        """The weight of each class, float64 ``[classes]``; None: every image once.

        Args:
            progress: from 0 in the first epoch of training to 1 in the last.
        """
        return None

    def of_class(self, label: int, size: int, generator: torch.Generator) -> Tensor:
        """Without repetition; all of the class where it has no more."""
        indices = self.members[label]
        return indices[torch.randperm(len(indices), generator=generator)[:size]]

    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """As many draws as there are images."""
        weights = self.weights(progress)
        if weights is None:
            return torch.randperm(len(self.labels), generator=generator)
        return draw_by_class(self.labels, weights, generator)

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """Random images of the class."""
        return self.of_class(label, ipc, generator)


class InstanceSampler(ByClassSampler):
    """Every image once an epoch, so class c with probability n_c / N."""
