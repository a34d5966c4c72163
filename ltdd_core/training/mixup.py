"""mixup (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018).

A step sees x = l x_i + (1 - l) x_j, j a permutation of the batch and one l ~ Beta(alpha, alpha), and lowers

    l L(f(x), y_i) + (1 - l) L(f(x), y_j),

which for cross-entropy is the loss of the mixed labels, and which any other loss has too.  A loss that weighs images
is weighed with l w(y_i) + (1 - l) w(y_j): over a batch, of which j is a permutation, that is the same equation.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ltdd_core.training.losses import Loss, WeightedLoss


def mixed(
    images: Tensor, labels: Tensor, loss: Loss, alpha: float, draws: torch.Generator
) -> tuple[Tensor, Tensor, Loss]:
    """A batch whose images are mixed in pairs, and the loss of both labels.

    Args:
        images: float ``[n, C, H, W]``.
        labels: ``[n]`` or ``[n, outputs]``.
        alpha: of Beta(alpha, alpha), from which the part of the first image of all pairs is drawn; 0 mixes nothing.

    Returns:
        Images, the labels of each pair ``[n, 2]`` or ``[n, 2, outputs]``, and their loss, which is the mean over
        images, or weighs them, as ``loss`` does; with alpha 0 what was given.
    """
    if alpha == 0:
        return images, labels, loss
    seed = int(torch.randint(2**31, (), generator=draws))  # torch draws no Beta from a private generator
    part = float(np.random.default_rng(seed).beta(alpha, alpha))
    partner = torch.randperm(len(images), generator=draws).to(images.device)
    pairs = torch.stack([labels, labels[partner]], 1)

    def of_both(of_one: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def mean(*given: Tensor) -> Tensor:
            *logits, both = given
            return part * of_one(*logits, both[:, 0]) + (1 - part) * of_one(*logits, both[:, 1])

        return mean

    if isinstance(loss, WeightedLoss):
        mixed_loss: Loss = WeightedLoss(of_both(loss.each), of_both(loss.weight))
    else:
        mixed_loss = of_both(loss)
    return part * images + (1 - part) * images[partner], pairs, mixed_loss
