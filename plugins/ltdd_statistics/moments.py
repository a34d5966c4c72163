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


def together(parts: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The moments of all images.

    Args:
        parts: the moments of each part.
        shares: of the images, that each part has; their sum is 1.
    """
    mean = sum_of([part[0] for part in parts], shares)
    return sum_of([about(part, mean) for part in parts], shares)


def sum_of(terms: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The sum of terms, each times its share."""
    return torch.stack([share * term for term, share in zip(terms, shares, strict=True)]).sum(0)
