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

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

EXACT_CLASSES = 20
RESTARTS = 50


def class_distances(features: Tensor, labels: Tensor, classes: int, centres: int, seed: int) -> Tensor:
    """Distances ``[classes, classes]`` (float64, symmetric, zero diagonal).

    Args:
        features: float ``[N, D]``.
        labels: int64 ``[N]``; every class occurs.
        centres: M; a class with fewer images has one centre an image.
        seed: of k-means.
    """
    found = [_centres(features[labels == label].double(), centres, seed) for label in range(classes)]
    distances = torch.zeros(classes, classes, dtype=torch.float64)
    for i, k in itertools.combinations(range(classes), 2):
        distances[i, k] = distances[k, i] = torch.cdist(found[i], found[k]).square().mean().sqrt()
    return distances


def _centres(features: Tensor, centres: int, seed: int) -> Tensor:
    different = torch.unique(features, dim=0)
    if len(different) <= centres:
        return different
    means = KMeans(centres, n_init=4, random_state=seed % 2**32).fit(features.numpy()).cluster_centers_
    return torch.from_numpy(means)


def max_cut(distances: Tensor, groups: int, seed: int = 0) -> Tensor:
    """The group of each class, int64 ``[classes]``, numbered in the order of their first classes.

    Exact for two groups of up to 20 classes; beyond that the best of 50 local searches that move single
    classes and exchange pairs.  No group is empty.
    """
    weights = distances.numpy()
    classes = len(weights)
    groups = min(groups, classes)
    if groups == 2 and classes <= EXACT_CLASSES:
        return _numbered(_exact_cut(weights))
    draws = np.random.default_rng(seed)
    searches = [_local_search(weights, groups, draws) for _ in range(RESTARTS)]
    return _numbered(max(searches, key=lambda member: cut_value(weights, member)))


def cut_value(weights: np.ndarray, member: np.ndarray) -> float:
    """The sum of distances between classes of different groups."""
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


def _local_search(weights: np.ndarray, groups: int, draws: np.random.Generator) -> np.ndarray:
    classes = len(weights)
    member = draws.permutation(np.arange(classes) % groups)
    while True:
        inside = weights @ np.eye(groups)[member]  # [classes, groups]: distance to each group
        own = inside[np.arange(classes), member]
        gain = own[:, None] - inside  # of moving a class: what is inside its group becomes outside
        gain[np.bincount(member, minlength=groups)[member] == 1] = 0  # never empty a group
        move = np.unravel_index(gain.argmax(), gain.shape)
        swap_gain = gain[:, member] + gain[:, member].T + 2 * weights
        swap_gain[member[:, None] == member[None, :]] = 0
        alone = np.bincount(member, minlength=groups)[member] == 1
        if alone.any():  # an exchange empties no group, but the gains of these were struck out above
            full = own[:, None] - inside
            swap_gain = full[:, member] + full[:, member].T + 2 * weights
            swap_gain[member[:, None] == member[None, :]] = 0
        swap = np.unravel_index(swap_gain.argmax(), swap_gain.shape)
        if max(gain[move], swap_gain[swap]) <= 1e-9 * weights.max():
            return member
        if gain[move] >= swap_gain[swap]:
            member[move[0]] = move[1]
        else:
            member[list(swap)] = member[list(swap)[::-1]]


def _numbered(member: np.ndarray) -> Tensor:
    _, first, inverse = np.unique(member, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return torch.from_numpy(rank[inverse])
