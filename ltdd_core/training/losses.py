"""Losses: what they take, and the plain one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits [n, outputs], labels [n] or [n, outputs]) -> scalar``, the mean over the images of a loss of each."""


LossSchedule = Callable[[float], Loss]
"""``progress -> loss`` of an epoch; progress goes from 0 in the first epoch to 1 in the last."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy with hard labels int64 ``[n]`` or soft ones ``[n, outputs]``."""
    return F.cross_entropy(logits, labels)
