"""Coresets: which real images stand for a class, chosen by their features; epochs have every image once.

Features are those of a classifier trained on the long-tailed set, not augmented.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import ByClassSampler, Features


class RandomSampler(ByClassSampler):
    """Random images stand for a class: the coreset that all others have to be better than."""


class HerdingSampler(ByClassSampler):
    """Images whose mean feature is nearest to that of the class (Welling, ICML 2009; as iCaRL, CVPR 2017, herds)."""

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The first ``min(ipc, n_c)`` of the herd, nothing about them random."""
        return self.members[label][herd(features(label), ipc)]


class KCenterSampler(ByClassSampler):
    """Images that no other image of the class is far from (k-center greedy; Sener & Savarese, ICLR 2018)."""

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The first ``min(ipc, n_c)`` centres, nothing about them random."""
        return self.members[label][centres(features(label), ipc)]


def herd(features: Tensor, size: int) -> Tensor:
    """Positions ``[min(size, n)]``: always the image that brings the mean of those chosen nearest to the mean of all.

    Args:
        features: ``[n, D]``; their directions count (iCaRL, section 3.1 and algorithm 4).
        size: how many.
    """
    own = F.normalize(features.double())
    mean, total = own.mean(0), torch.zeros(own.shape[1], dtype=torch.float64)
    chosen: list[int] = []
    left = torch.ones(len(own), dtype=torch.bool)
    for count in range(1, min(size, len(own)) + 1):
        distance = (mean - (total + own) / count).norm(dim=1)
        best = int(distance.masked_fill(~left, torch.inf).argmin())
        chosen.append(best)
        left[best] = False
        total = total + own[best]
    return torch.tensor(chosen)


def centres(features: Tensor, size: int) -> Tensor:
    """Positions ``[min(size, n)]``: the image nearest to the mean, then always the one farthest from its centre.

    Args:
        features: ``[n, D]``, compared by their Euclidean distance.
        size: how many.
    """
    own = features.double()
    chosen = [int((own - own.mean(0)).norm(dim=1).argmin())]
    distance = (own - own[chosen[0]]).norm(dim=1)
    while len(chosen) < min(size, len(own)):
        distance[chosen] = -1.0  # of equal images only one can be its own centre
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (own - own[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)
