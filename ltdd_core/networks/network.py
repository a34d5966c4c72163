"""The interface of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ltdd_core.networks.stored import Storable
from ltdd_core.options import BaseOptions

Shape = tuple[int, int, int]
"""``(C, H, W)`` of images."""


class Network(Storable, ABC):
    """A feature extractor with a linear layer on top.

    A subclass is made as ``cls(image_shape, outputs, options)`` with ``image_shape = (C, H, W)`` and sets
    ``self.linear``.  It draws initial weights as ``torch.nn`` does; the core seeds that.  In evaluation mode nothing
    is random.
    """

    Options: ClassVar[type[BaseOptions]] = BaseOptions
    linear: nn.Linear
    """The last layer, from D features to the outputs."""

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` with ``D = linear.in_features``; works under bf16 autocast too.

        Args:
            images: float32 ``[n, C, H, W]``, normalised; n may be 1.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, outputs]``: ``linear`` of ``embed``.  Not to be overridden: training calls the two itself."""
        logits: Tensor = self.linear(self.embed(images))
        return logits


MakeNetwork = Callable[[Shape, int], Network]
"""``(image shape, outputs) -> network`` with initial weights."""


@dataclass(frozen=True)
class NetworkFactory:
    """Makes networks of one kind; their initial weights come from torch's global generator."""

    component: type[Network]
    options: Any

    def __call__(self, image_shape: Shape, outputs: int) -> Network:
        """A network for images ``(C, H, W)`` with so many logits.

        Raises:
            InputError: the network is not for such images.
        """
        make: Any = self.component
        network: Network = make(image_shape, outputs, self.options)
        return network
