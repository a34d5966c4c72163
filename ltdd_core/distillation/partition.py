"""The grouping hypothesis as a partition of the classes (Zheng et al., ICMSSP 2024).

1. Features of the training images, before the linear layer of a trained network.
2. k-means with M = 5 centres c_i1 .. c_iM in each class i (fewer where the class has fewer images).
3. Class distance D_ik = sqrt( mean_{j,l} || c_ij - c_kl ||^2 ).  The paper writes a sum over j and l; the
   mean is the same up to a factor 1/M as long as every class has M centres, and keeps a class with fewer
   from being near to everything.
4. Groups G_1 .. G_K such that the sum of D_ik over pairs in different groups is largest (a max-cut).
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from ltdd_core.seeding import generator

CENTRES = 5
"""M of the paper."""
EXACT_CLASSES = 20
SEARCHED_CLASSES = 3000  # over all searches: 30 searches of 100 classes, 3 of 1000


def class_distances(features: Tensor, labels: Tensor, classes: int, centres: int = CENTRES, seed: int = 0) -> Tensor:
    """Distances between classes, ``[classes, classes]`` (float64, symmetric, zero diagonal).

    Args:
        features: float ``[N, D]``, on the CPU.
        labels: int64 ``[N]``; every class occurs.
        classes: number of classes.
        centres: M; a class with fewer different images has one centre for each of them.
        seed: of k-means.
    """
    # One thread, since several add up their shares in the order in which they finish.
    with threadpool_limits(1):
        centres_by_class = [
            class_centres(features[labels == label].double(), centres, seed) for label in range(classes)
        ]
    means = torch.stack([points.mean(0) for points in centres_by_class])
    spread = torch.stack([(points - points.mean(0)).square().sum(1).mean() for points in centres_by_class])
    # The mean over pairs of squared distances, without the pairs: between the means, plus both spreads.
    between = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (between + (spread[:, None] + spread[None, :])).sqrt().fill_diagonal_(0)


def class_centres(features: Tensor, centres: int, seed: int) -> Tensor:
    """Centres of one class by k-means, ``[M, D]``; its different features themselves where they are at most M.

    Args:
        features: float64 ``[n, D]`` of the images of the class, on the CPU.
        centres: M, at least 1.
        seed: of k-means.
    """
    different = torch.unique(features, dim=0)
    if len(different) <= centres:
        return different
    draw = int(torch.randint(2**31, (), generator=generator(seed, "k-means")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # images so close that they share a centre
        means = KMeans(centres, n_init=4, random_state=draw).fit(features.numpy()).cluster_centers_
    return torch.from_numpy(means)


def max_cut(distances: Tensor, groups: int, seed: int = 0) -> Tensor:
    """The group of each class, int64 ``[classes]``, numbered in the order of their first classes.

    Exact for two groups of up to 20 classes; beyond that the best of up to 50 local searches that move
    single classes and exchange pairs.  No group is empty; with more groups than classes each class is a group.

    Args:
        distances: float64 ``[classes, classes]``, symmetric, at least 0, with a zero diagonal.
        groups: number of groups, at least 1.
        seed: of the starts of the local searches.
    """
    weights = distances.numpy()
    classes = len(weights)
    if groups >= classes:
        return torch.arange(classes)
    if groups == 2 and classes <= EXACT_CLASSES:
        return canonical_labels(torch.from_numpy(_exact_cut(weights)))
    draws = generator(seed, "max-cut")
    searches = max(3, min(50, SEARCHED_CLASSES // classes))
    starts = [torch.randperm(classes, generator=draws).numpy() % groups for _ in range(searches)]
    with threadpool_limits(1):  # products of a matrix and a vector are small, and threads wait for each other
        partitions = [_local_search(weights, start, groups) for start in starts]
    return canonical_labels(torch.from_numpy(max(partitions, key=lambda member: cut_value(weights, member))))


def canonical_labels(member: Tensor) -> Tensor:
    """The same partition with its groups numbered in the order of their first classes, int64 ``[classes]``.

    Args:
        member: the group of each class, whole numbers ``[classes]``.
    """
    rank = {group: index for index, group in enumerate(dict.fromkeys(member.tolist()))}
    return torch.tensor([rank[group] for group in member.tolist()])


def cut_value(weights: np.ndarray, member: np.ndarray) -> float:
    """The sum of distances between classes of different groups, each pair counted once.

    Args:
        weights: distances, float ``[classes, classes]``, symmetric.
        member: the group of each class, whole numbers ``[classes]``.
    """
    return float(weights[member[:, None] != member[None, :]].sum() / 2)


def _exact_cut(weights: np.ndarray) -> np.ndarray:
    """All 2^(classes - 1) - 1 ways, the first class always in group 0."""
    classes = len(weights)
    codes = np.arange(1, 2 ** (classes - 1))
    best, best_value = codes[0], -np.inf
    for part in np.array_split(codes, max(1, len(codes) // 65536)):
        sides = (part[:, None] >> np.arange(classes - 1)) & 1
        sides = np.concatenate([np.zeros((len(part), 1), dtype=sides.dtype), sides], 1).astype(float)
        values = ((sides @ weights) * (1 - sides)).sum(1)
        if values.max() > best_value:
            best, best_value = part[values.argmax()], values.max()
    return np.concatenate([[0], (best >> np.arange(classes - 1)) & 1])


def _local_search(weights: np.ndarray, start: np.ndarray, groups: int) -> np.ndarray:
    """Better and better partitions until neither a move nor an exchange helps.

    The distance left within groups is compared as it comes out of the same sum every time, so each
    partition differs from all before it and the search ends whatever the rounding.
    """
    member, to_group = start, _to_group(weights, start, groups)
    while True:
        for neighbour in (_best_move, _best_exchange):
            changed = neighbour(weights, member, to_group)
            changed_to_group = _to_group(weights, changed, groups)
            if _own(changed_to_group, changed).sum() < _own(to_group, member).sum():
                member, to_group = changed, changed_to_group
                break
        else:
            return member


def _to_group(weights: np.ndarray, member: np.ndarray, groups: int) -> np.ndarray:
    """The distances of each class to the classes of each group, summed ``[classes, groups]``."""
    # One product a group: a matrix of two or three columns takes BLAS several times as long.
    return np.stack([weights @ (member == group).astype(float) for group in range(groups)], 1)


def _own(to_group: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The column of each class's own group ``[classes, 1]``."""
    return np.take_along_axis(to_group, member[:, None], 1)


def _best_move(weights: np.ndarray, member: np.ndarray, to_group: np.ndarray) -> np.ndarray:
    """One class in another group.  A class alone gains nothing by a move, so no group is left empty."""
    gains = _own(to_group, member) - to_group
    label, group = np.unravel_index(gains.argmax(), gains.shape)
    changed = member.copy()
    changed[label] = group
    return changed


def _best_exchange(weights: np.ndarray, member: np.ndarray, to_group: np.ndarray) -> np.ndarray:
    """Two classes of different groups in each other's place."""
    loss = _own(to_group, member) - to_group  # of moving a class to a group; either way counts w_ij of the two as lost
    best, first, second = -np.inf, 0, 0
    for group_a, group_b in itertools.combinations(range(to_group.shape[1]), 2):
        members_a, members_b = np.flatnonzero(member == group_a), np.flatnonzero(member == group_b)
        gains = (
            loss[members_a, group_b, None] + loss[None, members_b, group_a] + 2 * weights[np.ix_(members_a, members_b)]
        )
        if gains.size and gains.max() > best:
            i, j = np.unravel_index(gains.argmax(), gains.shape)
            best, first, second = gains[i, j], int(members_a[i]), int(members_b[j])
    changed = member.copy()
    changed[[first, second]] = member[[second, first]]
    return changed
