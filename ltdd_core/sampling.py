"""Draw images by class: what samplers and the second stage of decoupled heads have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_by_class(labels: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many images as there are: class c with probability ~ its weight, an image of the class uniformly.

    Args:
        labels: int64 ``[N]``, on the CPU.
        weights: float64 ``[classes]``, at least 0; a class without an image is never drawn.
        generator: of all that is random.

    Returns:
        Indices, int64 ``[N]``, with repetition.
    """
    counts = torch.bincount(labels, minlength=len(weights))
    drawn = torch.multinomial(weights * (counts > 0), len(labels), replacement=True, generator=generator)
    within = torch.rand(len(drawn), dtype=torch.float64, generator=generator) * counts[drawn]
    first = counts.cumsum(0) - counts
    return labels.argsort(stable=True)[first[drawn] + within.long()]
