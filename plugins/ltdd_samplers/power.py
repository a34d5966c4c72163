"""The q-power family (Kang et al., "Decoupling Representation and Classifier", ICLR 2020, equation 1).

An epoch of training draws as many images as there are, class c with probability n_c^q / sum_j n_j^q and
an image of the class uniformly: q = 1 sees each image alike (and, as everywhere, exactly once), q = 1/2 is
square-root sampling, q = 0 shows every class alike.  Draws of one class are uniform for every q.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ltdd_core import LongTailedSet, Sampler


class PowerSampler(Sampler):
    """Draws class c with p_c ~ n_c^q; a subclass says q."""

    q: ClassVar[float]
    members: list[Tensor]

    def prepare(self, data: LongTailedSet) -> None:
        """Remember which images belong to which class."""
        labels = data.train_labels.cpu()
        self.members = [torch.nonzero(labels == label).flatten() for label in range(data.classes)]

    def of_class(self, label: int, size: int, generator: torch.Generator) -> Tensor:
        """Without repetition; all of the class where it has no more."""
        own = self.members[label]
        return own[torch.randperm(len(own), generator=generator)[:size]]

    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """As many draws as there are images."""
        if self.q == 1:
            return torch.randperm(sum(map(len, self.members)), generator=generator)
        counts = torch.tensor([len(own) for own in self.members])
        weights = counts.double() ** self.q
        labels = torch.multinomial(weights, int(counts.sum()), replacement=True, generator=generator)
        within = torch.rand(len(labels), dtype=torch.float64, generator=generator) * counts[labels]
        first = counts.cumsum(0) - counts
        return torch.cat(self.members)[first[labels] + within.long()]

    def representatives(self, label: int, ipc: int, generator: torch.Generator) -> Tensor:
        """Random images of the class."""
        return self.of_class(label, ipc, generator)


class InstanceSampler(PowerSampler):
    """q = 1: every image once an epoch."""

    q = 1.0


class SquareRootSampler(PowerSampler):
    """q = 1/2: between every image and every class alike."""

    q = 0.5


class ClassBalancedSampler(PowerSampler):
    """q = 0: every class alike."""

    q = 0.0
