"""Coresets: real images that represent a class, chosen by their features.  An epoch has every image once.

The features are those of a classifier that was trained on the long-tailed set; the images are not augmented.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import BaseOptions, ByClassSampler, Features, option


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


class GraphCutSampler(ByClassSampler):
    """Representatives that are like the images of their class and unlike each other (graph-cut).

    They maximise f(S) = sum_{i in V, j in S} s_ij - lambda sum_{i, j in S} s_ij one after the other, where V are the
    images of the class and s the cosine similarity of features (Iyer et al., "Submodular Combinatorial Information
    Measures", ALT 2021; as a coreset in Guo et al., "DeepCore", DEXA 2022).
    """

    class Options(BaseOptions):
        """What the choice weighs."""

        redundancy: float = option(
            1.0,
            "weight lambda of the similarity among the chosen images; larger values choose images that differ more",
            source="DeepCore, public code",
            ge=0,
        )

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The first ``min(ipc, n_c)`` chosen images; there is nothing random in the choice."""
        return self.members[label][cut(features(label), ipc, self.options.redundancy)]


class KMeansSampler(ByClassSampler):
    """Representatives nearest to the centres of k-means in their class, one for each centre (as in DC-BENCH, 2022)."""

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """The ``min(ipc, n_c)`` images, those of the largest clusters first; k-means starts at random."""
        return self.members[label][nearest_to_means(features(label), ipc, generator)]


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


def cut(features: Tensor, size: int, redundancy: float) -> Tensor:
    """Positions ``[min(size, n)]``: always the image that raises f(S) of :class:`GraphCutSampler` most.

    With s_jj = 1 the image j raises it by sum_{i in V} s_ij - lambda (2 sum_{i in S} s_ij + 1).  Memory is linear in
    n: the sums over V and S are products with the sum of all, or of the chosen, unit vectors.

    Args:
        features: ``[n, D]``; their directions count.
        size: how many.
        redundancy: lambda.
    """
    directions = F.normalize(features.double())
    like_all, total = directions @ directions.sum(0), torch.zeros(directions.shape[1], dtype=torch.float64)
    chosen: list[int] = []
    unchosen = torch.ones(len(directions), dtype=torch.bool)
    while len(chosen) < min(size, len(directions)):
        gain = like_all - 2 * redundancy * (directions @ total)
        best = int(gain.masked_fill(~unchosen, -torch.inf).argmax())
        chosen.append(best)
        unchosen[best] = False
        total = total + directions[best]
    return torch.tensor(chosen)


def nearest_to_means(features: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Positions ``[min(size, n)]``: of k-means with so many centres, the image nearest to each, none twice.

    Args:
        features: ``[n, D]``, compared by their Euclidean distance.
        size: how many.
        generator: of the starts of k-means.
    """
    points, number = features.double(), min(size, len(features))
    draw = int(torch.randint(2**31, (), generator=generator))
    with warnings.catch_warnings(), threadpool_limits(1):  # several threads add up in the order in which they finish
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal images share a centre
        clusters = KMeans(number, n_init=4, random_state=draw).fit(points.numpy())
    sizes = torch.bincount(torch.from_numpy(clusters.labels_).long(), minlength=number)
    unchosen = torch.ones(len(points), dtype=torch.bool)
    chosen: list[int] = []
    for centre in torch.from_numpy(clusters.cluster_centers_)[sizes.argsort(descending=True, stable=True)]:
        distance = (points - centre).norm(dim=1)
        chosen.append(int(distance.masked_fill(~unchosen, torch.inf).argmin()))
        unchosen[chosen[-1]] = False
    return torch.tensor(chosen)
