"""Mean and variance of the channels of many images that go through a network a part at a time.

With share_p of the images in part p, whose values have mean m_p and variance v_p, those of all images are

    m = sum_p share_p m_p,    v = sum_p share_p (v_p + (m_p - m)^2),

and with m held fixed on the right-hand side the sums have the gradients of m and v too: that of (m_p - m)^2 in m adds
up to nothing over the parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltdd_core import summed_over_processes


def moments(values: Tensor) -> Tensor:
    """Mean and variance of each channel over images and pixels, ``[2, channels]``; the variance is not corrected.

    Args:
        values: ``[n, channels, h, w]``.
    """
    return torch.stack([values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0)])


def about(part: Tensor, mean: Tensor) -> Tensor:
    """What a part has for a sum over parts: its mean, and its mean square about the mean of all, ``[2, channels]``.

    Args:
        part: its moments.
        mean: m, ``[channels]``.
    """
    return torch.stack([part[0], part[1] + (part[0] - mean).square()])


def together(parts: Sequence[Sequence[Tensor]], shares: Sequence[float], like: Sequence[Tensor]) -> list[Tensor]:
    """The moments of all images in each layer, the same bits in every process that shares the parts.

    Args:
        parts: for each part that this process has, maybe none, its moments in each layer.
        shares: of all images, that each of these parts has.
        like: for each layer a tensor ``[2, channels]`` on the device of the moments.
    """
    means = _sums([[layer[0] for layer in part] for part in parts], shares, [layer[0] for layer in like])
    terms = [[about(layer, mean) for layer, mean in zip(part, means, strict=True)] for part in parts]
    return _sums(terms, shares, like)


def _sums(parts: Sequence[Sequence[Tensor]], shares: Sequence[float], like: Sequence[Tensor]) -> list[Tensor]:
    """For each layer the sum over the parts of all processes, each part times its share."""
    sums = [torch.zeros_like(layer) for layer in like]
    for part, share in zip(parts, shares, strict=True):
        for total, term in zip(sums, part, strict=True):
            total.add_(share * term)
    summed_over_processes(*sums)
    return sums
