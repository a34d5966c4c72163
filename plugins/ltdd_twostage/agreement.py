"""How much two partitions agree, and how good a cut is.

The adjusted Rand index (Hubert & Arabie 1985) is 1 for the same partition and 0 on average for partitions by chance.
Its permutation test gives the classes of each partition to groups of the same sizes at random.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ltdd_core import cut_value, generator

PERMUTATIONS = 999
ENUMERATED = 200_000  # partitions at most that are compared one by one


@dataclass(frozen=True)
class Agreement:
    """How much several partitions of the same classes agree."""

    mean: float
    """Mean adjusted Rand index over pairs."""
    lowest: float
    """Lowest adjusted Rand index of a pair."""
    same: float
    """Share of pairs that are the same partition, from 0 to 1."""
    p_value: float
    """Share of random partitions with the same group sizes whose mean is as high."""
    pairs: int
    """Number of pairs."""


def agreement(partitions: Sequence[Tensor], seed: int = 0, permutations: int = PERMUTATIONS) -> Agreement | None:
    """The agreement of every pair; None for fewer than two partitions.

    Args:
        partitions: int64 ``[classes]`` each.
        seed: of the permutation test.
        permutations: number of random partitions in the test.
    """
    return _of_pairs(partitions, list(itertools.combinations(range(len(partitions)), 2)), seed, permutations)


def agreement_between(first: Sequence[Tensor], second: Sequence[Tensor], seed: int = 0) -> Agreement | None:
    """The agreement of each partition with its counterpart; None for no partition.

    Args:
        first: int64 ``[classes]`` each.
        second: as many, in the same order.
        seed: of the permutation test.
    """
    count = len(first)
    return _of_pairs([*first, *second], [(index, count + index) for index in range(count)], seed, PERMUTATIONS)


def _of_pairs(
    partitions: Sequence[Tensor], pairs: Sequence[tuple[int, int]], seed: int, permutations: int
) -> Agreement | None:
    if not pairs:
        return None
    scores = [adjusted_rand_score(partitions[i], partitions[j]) for i, j in pairs]
    draws, higher = generator(seed, "permutation test"), 0
    for _ in range(permutations):
        permuted = [partition[torch.randperm(len(partition), generator=draws)] for partition in partitions]
        mean = float(np.mean([adjusted_rand_score(permuted[i], permuted[j]) for i, j in pairs]))
        higher += mean >= np.mean(scores) - 1e-12
    same = float(np.mean([score > 1 - 1e-12 for score in scores]))
    return Agreement(float(np.mean(scores)), min(scores), same, (1 + higher) / (1 + permutations), len(pairs))


def spectral_bound(distances: Tensor, groups: int) -> float:
    """A value that no cut into K groups exceeds: n (K - 1) / (2 K) times the largest eigenvalue of the Laplacian.

    For K = 2 it is Mohar & Poljak's (1990).  For K groups as vectors of a regular simplex, the cut is (K - 1) / K times
    the sum over pairs of w_ij (1 - <v_i, v_j>) = tr(V' L V) / 2 with tr(V' V) = n.

    Args:
        distances: w, float64 ``[n, n]``, symmetric.
        groups: K.
    """
    weights = distances.numpy()
    laplacian = np.diag(weights.sum(1)) - weights
    return float(len(weights) * (groups - 1) / (2 * groups) * np.linalg.eigvalsh(laplacian)[-1])


def second_best(distances: Tensor, member: Tensor, groups: int) -> float | None:
    """The value of the best other partition into as many groups; None where there is no other.

    Where there are more than 200,000 partitions, only those count that differ by one class moved or two exchanged.

    Args:
        distances: float64 ``[classes, classes]``, symmetric.
        member: the group of each class in the given partition, int64 ``[classes]``.
        groups: number of groups.
    """
    weights, given = distances.numpy(), member.numpy()
    few = groups ** (len(given) - 1) <= ENUMERATED
    candidates = _all_partitions(len(given), groups) if few else iter(_neighbours(given, groups))
    best: float | None = None
    for candidate in candidates:
        if len(np.unique(candidate)) == groups and not _same(candidate, given):
            value = float(cut_value(weights, candidate))
            best = value if best is None else max(best, value)
    return best


def _all_partitions(classes: int, groups: int) -> Iterator[np.ndarray]:
    for tail in itertools.product(range(groups), repeat=classes - 1):
        yield np.array((0, *tail))


def _neighbours(member: np.ndarray, groups: int) -> list[np.ndarray]:
    neighbours = []
    for label in range(len(member)):
        for group in range(groups):
            changed = member.copy()
            changed[label] = group
            neighbours.append(changed)
    for i, j in itertools.combinations(range(len(member)), 2):
        if member[i] != member[j]:
            changed = member.copy()
            changed[[i, j]] = member[[j, i]]
            neighbours.append(changed)
    return neighbours


def _same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether they are the same groups, numbered in another way."""
    pairs = {*zip(first.tolist(), second.tolist(), strict=True)}
    return len(pairs) == len(set(first.tolist())) == len(set(second.tolist()))
