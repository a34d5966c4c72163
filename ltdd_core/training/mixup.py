"""mixup (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018).

A step sees x = l x_i + (1 - l) x_j, j a permutation of the batch and one l ~ Beta(alpha, alpha), and lowers

    l L(f(x), y_i) + (1 - l) L(f(x), y_j),

which for cross-entropy is the loss of the mixed labels, and which any other loss has too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltdd_core.training.losses import Loss


def mixed(
    images: Tensor, labels: Tensor, loss: Loss, alpha: float, draws: torch.Generator
) -> tuple[Tensor, Tensor, Loss]:
    """A batch whose images are mixed in pairs, and the loss of both labels.

    Args:
        images: float ``[n, C, H, W]``.
        labels: ``[n]`` or ``[n, outputs]``.
        alpha: of Beta(alpha, alpha), from which the part of the first image of all pairs is drawn; 0 mixes nothing.

    Returns:
        Images, the labels of each pair ``[n, 2]`` or ``[n, 2, outputs]``, and their loss, which is the mean over images
        if ``loss`` is; with alpha 0 what was given.
    """
    if alpha == 0:
        return images, labels, loss
    seed = int(torch.randint(2**31, (), generator=draws))  # torch draws no Beta from a generator of one's own
    part = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(images), generator=draws).to(images.device)
    pairs = torch.stack([labels, labels[other]], 1)

    def of_both(logits: Tensor, both: Tensor) -> Tensor:
        return part * loss(logits, both[:, 0]) + (1 - part) * loss(logits, both[:, 1])

    return part * images + (1 - part) * images[other], pairs, of_both
