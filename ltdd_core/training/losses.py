"""Losses: what they take, the plain one, and those that weigh their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits [n, outputs], labels [n] or [n, outputs]) -> scalar``: the mean over the images of a loss of each, or a
:class:`WeightedLoss`."""


LossSchedule = Callable[[float], Loss]
"""``progress -> loss`` of an epoch; progress goes from 0 in the first epoch to 1 in the last."""


@dataclass(frozen=True)
class WeightedLoss:
    """sum_i w_i l_i / sum_i w_i over the images of a batch, as ``F.cross_entropy(weight=w)`` has it for hard labels.

    The sum of the weights is that of the whole batch, also where its gradients are taken a few images at a time.
    """

    each: Callable[[Tensor, Tensor], Tensor]
    """``(logits, labels) -> w_i l_i`` of each image ``[n]``."""
    weight: Callable[[Tensor], Tensor]
    """``labels -> w_i`` of each image ``[n]``, at least 0."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar; 0 where no image has a weight."""
        return self.each(logits, labels).sum() / self._sum(labels).to(logits)

    def share(self, part: Tensor, labels: Tensor) -> Tensor:
        """What the loss of a part of a batch is multiplied by, so that the losses of all parts add up to the batch's.

        Args:
            part: the labels of the part.
            labels: those of the batch.
        """
        return self._sum(part) / self._sum(labels)

    def _sum(self, labels: Tensor) -> Tensor:
        return self.weight(labels).sum().clamp(min=1e-30)


def share_of(loss: Loss, part: Tensor, labels: Tensor) -> Tensor | float:
    """What the loss of a part of a batch counts for in that of the batch, by their labels."""
    return loss.share(part, labels) if isinstance(loss, WeightedLoss) else len(part) / len(labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy with hard labels int64 ``[n]`` or soft ones ``[n, outputs]``."""
    return F.cross_entropy(logits, labels)
