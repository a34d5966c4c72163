"""Other partitions: classes that are confused share a group, or the groups are random."""

from __future__ import annotations

import torch
from sklearn.cluster import SpectralClustering
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import canonical_labels, generator


def soft_confusion(log_p: Tensor, labels: Tensor) -> Tensor:
    """Mean probability of class j on images of class i, float64 ``[classes, classes]``; rows sum to one.

    Args:
        log_p: of images that the classifier was not trained on, ``[N, classes]``.
        labels: int64 ``[N]``; every class occurs.
    """
    member = F.one_hot(labels, log_p.shape[1]).double()
    return (member.T @ log_p.double().exp()) / member.sum(0)[:, None]


def least_confused(log_p: Tensor, labels: Tensor, groups: int, seed: int) -> Tensor:
    """Groups of classes that are confused, int64 ``[classes]``: spectral clustering of A = (F + F^T) / 2.

    F is :func:`soft_confusion`.  The normalised cut of A keeps confused classes in one group, which is what a router
    needs (Bengio et al., NeurIPS 2010; HD-CNN, Yan et al., ICCV 2015), and does not ask for groups of equal size.
    Groups are numbered in the order of their first classes; with as many groups as classes each class is a group.

    Args:
        log_p: as of :func:`soft_confusion`.
        labels: int64 ``[N]``; every class occurs.
        groups: number of groups.
        seed: of the clustering.
    """
    confusion = soft_confusion(log_p, labels)
    if groups >= len(confusion):
        return torch.arange(len(confusion))
    affinity = (confusion + confusion.T) / 2
    draw = int(torch.randint(2**31, (), generator=generator(seed, "spectral clustering")))
    model = SpectralClustering(groups, affinity="precomputed", assign_labels="cluster_qr", random_state=draw)
    return canonical_labels(torch.from_numpy(model.fit_predict(affinity.numpy())).long())


def shuffled(groups: Tensor, seed: int) -> Tensor:
    """Random groups of the same sizes, int64 ``[classes]``: the control of any partition.

    Args:
        groups: the partition, int64 ``[classes]``.
        seed: of the draw.
    """
    return canonical_labels(groups[torch.randperm(len(groups), generator=generator(seed, "random groups"))])
