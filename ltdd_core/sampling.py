"""Draw images by their class: what samplers, and heads that balance a stage of their own, have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_by_class(labels: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many draws as there are images, each of class c with probability w_c / sum_j w_j, then of any of its images.

    Draws are with replacement.  A class without an image is never drawn, whatever its weight.

    Args:
        labels: int64 ``[N]``, from 0 to ``len(weights) - 1``.
        weights: float64 ``[classes]``, not negative.
        generator: on the CPU; the draws are a function of it.

    Returns:
        Indices into ``labels``, int64 ``[N]`` on the CPU.

    Raises:
        ValueError: the weight of a class that has images is negative or not finite, or all of them are 0.
    """
    labels, weights = labels.cpu(), weights.cpu()
    counts = torch.bincount(labels, minlength=len(weights))
    weights = torch.where(counts > 0, weights, 0)
    if not torch.isfinite(weights).all() or (weights < 0).any() or not (weights > 0).any():
        raise ValueError(f"weights of classes must be finite, not negative and not all 0: {weights.tolist()}")
    drawn = torch.multinomial(weights, len(labels), replacement=True, generator=generator)
    within = torch.rand(len(labels), dtype=torch.float64, generator=generator) * counts[drawn]
    first = counts.cumsum(0) - counts
    return labels.argsort(stable=True)[first[drawn] + within.long()]
