"""Representative real images for matching: DREAM.

Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023.

Random real images of a class are partly outliers, and leave parts of the class out by chance.  DREAM divides the
features of the class into as many clusters as images are wanted, by k-means,

    min sum_j sum_{x in C_j} || f(x) - mean_{y in C_j} f(y) ||^2,

and takes the image nearest to the centre of each cluster C_j.  The same is done for the initial images.  Defaults are
those of the authors' public code.  There f is the network that is being matched in, trained a little on real images;
here it is a random network, a new one for each choice, so that any matcher can have these images and a run that is
resumed finds them again.
"""

from __future__ import annotations

import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from ltdd_core import BaseOptions, ByClassSampler, Embed, Features, option


class RepresentativeSampler(ByClassSampler):
    """The images nearest to the centres of k-means: for matching, and to begin with."""

    citation = """@inproceedings{liu2023dream,
  title = {{DREAM}: Efficient Dataset Distillation by Representative Matching},
  author = {Liu, Yanqing and Gu, Jianyang and Wang, Kai and Zhu, Zheng and Jiang, Wei and You, Yang},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year = {2023}
}"""

    class Options(BaseOptions):
        """How often images are chosen, and among how many."""

        interval: int = option(
            10,
            "number of matching steps in a row that take the same real images; then they are chosen anew",
            source="DREAM, public code",
            ge=1,
        )
        candidates: int | None = option(
            None,
            "number of random images of a class among which those of a step are chosen; fewer take less time",
            ge=1,
            unless_given="all images of the class",
        )

    @property
    def interval(self) -> int:
        """As the option says."""
        return self.options.interval

    def for_matching(self, label: int, size: int, generator: torch.Generator, embed: Embed) -> Tensor:
        """An image of each cluster; all images of a class that has no more."""
        candidates = self.of_class(label, max(size, self.options.candidates or len(self.labels)), generator)
        if len(candidates) <= size:
            return candidates
        return candidates[nearest_to_centres(embed(candidates), size, generator)]

    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """An image of each cluster of the features by the trained classifier."""
        members = self.members[label]
        if len(members) <= ipc:
            return members
        return members[nearest_to_centres(features(label), ipc, generator)]


def nearest_to_centres(features: Tensor, size: int, draws: torch.Generator) -> Tensor:
    """Positions ``[size]``: of each cluster of k-means the image nearest to its centre.

    Where there are fewer different features than clusters, the first images that are not taken yet fill up.

    Args:
        features: float ``[n, D]`` on the CPU.
        size: number of clusters, at least 1 and at most n.
        draws: where k-means starts is a function of it.
    """
    start = int(torch.randint(2**31, (), generator=draws))
    # One thread, since several add up their shares in the order in which they finish.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # images so close that they share a centre
        found = KMeans(size, n_init=1, random_state=start).fit(features.numpy())
    cluster, centres = torch.from_numpy(found.labels_).long(), torch.from_numpy(found.cluster_centers_)
    order = (features - centres[cluster]).square().sum(1).argsort(stable=True)  # the nearest ones first
    first = torch.full((size,), len(features)).scatter_reduce(0, cluster[order], torch.arange(len(features)), "amin")
    chosen = order[first[first < len(features)]]
    left = torch.ones(len(features), dtype=torch.bool)
    left[chosen] = False
    return torch.cat([chosen, left.nonzero().flatten()[: size - len(chosen)]])
