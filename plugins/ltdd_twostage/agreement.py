"""How much two partitions agree, and how good a cut is.

The adjusted Rand index (Hubert & Arabie 1985) is 1 for the same partition and 0 on average for partitions by chance.
Its permutation test deals the classes of one partition out anew, with the same group sizes.
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
ENUMERATED = 200_000  # partitions that are looked at one by one


@dataclass(frozen=True)
class Agreement:
    """Of several partitions of the same classes."""

    mean: float
    """Adjusted Rand index, the mean over pairs."""
    lowest: float
    """Of any pair."""
    same: float
    """Share of pairs that are the same partition."""
    p_value: float
    """How often partitions by chance with the same group sizes have a mean as high."""
    pairs: int


def agreement(partitions: Sequence[Tensor], seed: int = 0, permutations: int = PERMUTATIONS) -> Agreement | None:
    """The agreement of every pair; None of less than two.

    Args:
        partitions: int64 ``[classes]`` each.
        seed: of the permutations.
        permutations: how many.
    """
    return _of_pairs(partitions, list(itertools.combinations(range(len(partitions)), 2)), seed, permutations)


def agreement_between(first: Sequence[Tensor], second: Sequence[Tensor], seed: int = 0) -> Agreement | None:
    """The agreement of each of the first with its counterpart among the second."""
    count = len(first)
    return _of_pairs([*first, *second], [(index, count + index) for index in range(count)], seed, PERMUTATIONS)


def _of_pairs(
    partitions: Sequence[Tensor], pairs: Sequence[tuple[int, int]], seed: int, permutations: int
) -> Agreement | None:
    if not pairs:
        return None
    found = [adjusted_rand_score(partitions[i], partitions[j]) for i, j in pairs]
    draws, higher = generator(seed, "permutation test"), 0
    for _ in range(permutations):
        dealt = [own[torch.randperm(len(own), generator=draws)] for own in partitions]
        mean = float(np.mean([adjusted_rand_score(dealt[i], dealt[j]) for i, j in pairs]))
        higher += mean >= np.mean(found) - 1e-12
    same = float(np.mean([score > 1 - 1e-12 for score in found]))
    return Agreement(float(np.mean(found)), min(found), same, (1 + higher) / (1 + permutations), len(pairs))


def spectral_bound(distances: Tensor, groups: int) -> float:
    """No cut into K groups is larger: n (K - 1) / (2 K) times the largest eigenvalue of the Laplacian.

    For K = 2 it is Mohar & Poljak's (1990).  For K groups as vectors of a regular simplex, the cut is (K - 1) / K times
    the sum over pairs of w_ij (1 - <v_i, v_j>) = tr(V' L V) / 2 with tr(V' V) = n.
    """
    weights = distances.numpy()
    laplacian = np.diag(weights.sum(1)) - weights
    return float(len(weights) * (groups - 1) / (2 * groups) * np.linalg.eigvalsh(laplacian)[-1])


def second_best(distances: Tensor, member: Tensor, groups: int) -> float:
    """The value of the best other partition into as many groups: of all there are where those can be looked at.

    Beyond that, of those that differ by a class moved or by two exchanged.
    """
    weights, own = distances.numpy(), member.numpy()
    every = groups ** (len(own) - 1) <= ENUMERATED
    others = _all_partitions(len(own), groups) if every else iter(_neighbours(own, groups))
    best = -np.inf
    for other in others:
        if len(np.unique(other)) == groups and not _same(other, own):
            best = max(best, cut_value(weights, other))
    return float(best)


def _all_partitions(classes: int, groups: int) -> Iterator[np.ndarray]:
    for tail in itertools.product(range(groups), repeat=classes - 1):
        yield np.array((0, *tail))


def _neighbours(own: np.ndarray, groups: int) -> list[np.ndarray]:
    found = []
    for label in range(len(own)):
        for group in range(groups):
            changed = own.copy()
            changed[label] = group
            found.append(changed)
    for i, j in itertools.combinations(range(len(own)), 2):
        if own[i] != own[j]:
            changed = own.copy()
            changed[[i, j]] = own[[j, i]]
            found.append(changed)
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether they are the same groups under other numbers."""
    return len({*zip(one.tolist(), other.tolist(), strict=True)}) == len(set(one.tolist())) == len(set(other.tolist()))
