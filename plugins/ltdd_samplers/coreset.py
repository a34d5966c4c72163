"""Coresets: real images that represent a class, chosen by their features.  An epoch has every image once.

The features are those of a classifier that was trained on the long-tailed set; the images are not augmented.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import ByClassSampler, Features


class RandomSampler(ByClassSampler):
    """Random representatives of each class: the baseline that every other coreset has to beat."""


class HerdingSampler(ByClassSampler):
    """Representatives whose mean feature is close to the class mean (Welling, ICML 2009; as in iCaRL, CVPR 2017)."""

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The first ``min(ipc, n_c)`` chosen images; there is nothing random in the choice."""
        return self.members[label][herd(features(label), ipc)]


class KCenterSampler(ByClassSampler):
    """Representatives such that every image of the class is near one (k-center greedy; Sener & Savarese, ICLR 2018)."""

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The first ``min(ipc, n_c)`` centres; there is nothing random in the choice."""
        return self.members[label][centres(features(label), ipc)]


def herd(features: Tensor, size: int) -> Tensor:
    """Positions ``[min(size, n)]``: always the image that brings the mean of those chosen nearest to the mean of all.

    Args:
        features: ``[n, D]``; their directions count (iCaRL, section 3.1 and algorithm 4).
        size: how many.
    """
    directions = F.normalize(features.double())
    mean, total = directions.mean(0), torch.zeros(directions.shape[1], dtype=torch.float64)
    chosen: list[int] = []
    unchosen = torch.ones(len(directions), dtype=torch.bool)
    for count in range(1, min(size, len(directions)) + 1):
        distance = (mean - (total + directions) / count).norm(dim=1)
        best = int(distance.masked_fill(~unchosen, torch.inf).argmin())
        chosen.append(best)
        unchosen[best] = False
        total = total + directions[best]
    return torch.tensor(chosen)


def centres(features: Tensor, size: int) -> Tensor:
    """Positions ``[min(size, n)]``: the image nearest to the mean, then always the one farthest from its centre.

    Args:
        features: ``[n, D]``, compared by their Euclidean distance.
        size: how many.
    """
    points = features.double()
    chosen = [int((points - points.mean(0)).norm(dim=1).argmin())]
    distance = (points - points[chosen[0]]).norm(dim=1)
    while len(chosen) < min(size, len(points)):
        distance[chosen] = -1.0  # of equal images only one can be its own centre
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)
