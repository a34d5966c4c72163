"""A last layer of cosines."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core.networks.stored import Storable


class CosineLinear(Storable, nn.Linear):
    """A linear layer of directions: scale times the cosine between features and the weights of each class.

    Args:
        features: D.
        outputs: number of classes.
        scale: of the cosines; a softmax of plain ones, which lie between -1 and 1, could hardly prefer a class.
    """

    def __init__(self, features: int, outputs: int, scale: float) -> None:
        super().__init__(features, outputs, bias=False)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[n, outputs]`` of features ``[n, D]``."""
        return self.scale * F.linear(F.normalize(features), F.normalize(self.weight))
