"""Long-tailed distributions of the test classes, which a balanced test part stands for (LADE, CVPR 2021; SADE, 2022).

Of C classes from head to tail, class i has the share

    w_i ~ IF^(-i / (C - 1)) forward,    w_i ~ IF^(i / (C - 1)) backward,    w_i = 1 / C uniform

of the test images.  LADE and SADE draw so many test images of each class.  Here nothing is drawn: the share is a weight
of the class, and the accuracy sum_i w_i r_i is what the accuracy of their draw is on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ltdd_core.data.longtail import by_count
from ltdd_core.errors import InputError, either

UNIFORM = "uniform"


def check_imbalances(imbalances: Sequence[float]) -> None:
    """See that imbalance factors of test distributions can be some.

    Raises:
        InputError: one is not above 1, or not finite.
    """
    for imbalance in imbalances:
        if not 1 < imbalance < math.inf:
            option = either("--test-imbalance", "each of test_imbalances")
            raise InputError(f"{option} is an imbalance factor, a number above 1, not {imbalance:g}.")


def shares_of_classes(counts: Sequence[int], imbalances: Sequence[float]) -> dict[str, Tensor]:
    """The share of each class in each test distribution.

    Args:
        counts: training images of each class; forward distributions go down where these do.  Of classes with as many
            images the first one comes first.
        imbalances: the imbalance factors, each above 1.

    Returns:
        ``forward-50``, the largest factor first, then ``uniform``, then ``backward-50``, the smallest factor first:
        float64 ``[classes]`` that add up to 1.
    """
    factors = sorted(set(imbalances))
    forward = {f"forward-{factor:g}": _shares(counts, factor) for factor in reversed(factors)}
    backward = {f"backward-{factor:g}": _shares(counts, 1 / factor) for factor in factors}
    return {**forward, UNIFORM: _shares(counts, 1.0), **backward}


def _shares(counts: Sequence[int], imbalance: float) -> Tensor:
    """Shares of the classes that fall from head to tail by this factor; below 1 they rise."""
    ranks = torch.empty(len(counts), dtype=torch.float64)
    ranks[by_count(counts)] = torch.arange(len(counts), dtype=torch.float64)
    shares = imbalance ** (-ranks / max(1, len(counts) - 1))
    return shares / shares.sum()
