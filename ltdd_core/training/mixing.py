"""mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019): steps on mixtures of pairs of images.

With j a permutation of a batch and one l ~ Beta(alpha, alpha), a step of mixup sees x = l x_i + (1 - l) x_j.  A step of
CutMix sees x_i with a rectangle of x_j in it; its sides are sqrt(1 - l) of the image's, its centre is drawn uniformly,
what lies outside is cut off, and l becomes the share that is left of x_i.  Either lowers

    l L(f(x), y_i) + (1 - l) L(f(x), y_j),

which for cross-entropy is the loss of the mixed labels, and which any other loss has too.  A loss that weighs images
is weighed with l w(y_i) + (1 - l) w(y_j): over a batch, of which j is a permutation, that is the same equation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ltdd_core.training.losses import Loss, WeightedLoss


@dataclass(frozen=True)
class Mix:
    """How the images of a batch were mixed."""

    partner: Tensor
    """j of each image, int64 ``[n]``, a permutation."""
    part: float
    """l, the share of the first image of each pair."""

    def pairs(self, labels: Tensor) -> Tensor:
        """The labels of both images of each pair, ``[n, 2]`` or ``[n, 2, outputs]``."""
        return torch.stack([labels, labels[self.partner]], 1)

    def of_values(self, values: Tensor) -> Tensor:
        """Values of the images, mixed in the same way, in their shape."""
        return self.part * values + (1 - self.part) * values[self.partner]

    def of_loss(self, loss: Loss) -> Loss:
        """The loss of :meth:`pairs`, which is the mean over images, or weighs them, as ``loss`` does."""
        part = self.part

        def of_both(of_one: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def mean(*given: Tensor) -> Tensor:
                *logits, both = given
                return part * of_one(*logits, both[:, 0]) + (1 - part) * of_one(*logits, both[:, 1])

            return mean

        if isinstance(loss, WeightedLoss):
            return WeightedLoss(of_both(loss.each), of_both(loss.weight))
        return of_both(loss)


def mixed(images: Tensor, mixup: float, cutmix: float, draws: torch.Generator) -> tuple[Tensor, Mix | None]:
    """A batch whose images are mixed in pairs, and how; with both alphas 0 what was given, and None.

    Args:
        images: float ``[n, C, H, W]``.
        mixup: alpha of mixup; 0 for none.
        cutmix: alpha of CutMix; 0 for none.  Where both are above 0, each batch has either with equal chances.
        draws: on the CPU.
    """
    if not mixup and not cutmix:
        return images, None
    cut = bool(cutmix) and (not mixup or bool(torch.rand((), generator=draws) < 0.5))
    alpha = cutmix if cut else mixup
    seed = int(torch.randint(2**31, (), generator=draws))  # torch draws no Beta from a private generator
    part = float(np.random.default_rng(seed).beta(alpha, alpha))
    partner = torch.randperm(len(images), generator=draws).to(images.device)
    if not cut:
        mix = Mix(partner, part)
        return mix.of_values(images), mix
    inside = _rectangle(images.shape[2], images.shape[3], part, draws).to(images.device)
    return torch.where(inside, images[partner], images), Mix(partner, 1 - float(inside.double().mean()))


def _rectangle(height: int, width: int, part: float, draws: torch.Generator) -> Tensor:
    """Bool ``[height, width]``: a rectangle with 1 - part of the area, less what lies outside of the image."""
    side = (1 - part) ** 0.5
    tall, wide = int(height * side), int(width * side)
    y, x = (int(torch.randint(size, (), generator=draws)) for size in (height, width))
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= y - tall // 2) & (rows < y - tall // 2 + tall)
    in_columns = (columns >= x - wide // 2) & (columns < x - wide // 2 + wide)
    return in_rows[:, None] & in_columns[None, :]
