"""What all samplers here have in common: uniform draws within a class, classes by a weight."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from ltdd_core import Features, LongTailedSet, Sampler, draw_by_class


class ByClassSampler(Sampler):
    """Draws class c with p_c ~ its weight, and an image of the class uniformly; a subclass gives the weights."""

    labels: Tensor
    members: list[Tensor]
    counts: Tensor
    """Images of each class, float64 ``[classes]``."""

    def prepare(self, data: LongTailedSet) -> None:
        """Remember which images belong to which class."""
        self.labels = data.train_labels.cpu()
        self.members = [torch.nonzero(self.labels == label).flatten() for label in range(data.classes)]
        self.counts = torch.tensor([len(own) for own in self.members], dtype=torch.float64)

    @abstractmethod
    def weights(self, progress: float) -> Tensor:
        """What the probabilities of the classes are proportional to, float64 ``[classes]``."""

    def of_class(self, label: int, size: int, generator: torch.Generator) -> Tensor:
        """Without repetition; all of the class where it has no more."""
        own = self.members[label]
        return own[torch.randperm(len(own), generator=generator)[:size]]

    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """As many draws as there are images."""
        return draw_by_class(self.labels, self.weights(progress), generator)

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """Random images of the class."""
        return self.of_class(label, ipc, generator)
