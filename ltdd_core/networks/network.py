"""The interface of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ltdd_core.networks.pretrained import read_weights, take_weights
from ltdd_core.networks.stored import Storable
from ltdd_core.options import BaseOptions, option
from ltdd_core.storage import digest_of

Shape = tuple[int, int, int]
"""``(C, H, W)`` of images."""


class NetworkOptions(BaseOptions):
    """What every network has whose options are these, or more than these."""

    weights: Path | None = option(
        None,
        "file of pretrained weights, .safetensors or a state dict .pt; the last layer stays random where it does not "
        "fit. The random networks of a method then all have the same body",
    )


class Network(Storable, ABC):
    """A feature extractor with a linear layer on top.

    A subclass is made as ``cls(image_shape, outputs, options)`` with ``image_shape = (C, H, W)`` and sets
    ``self.linear``.  It draws initial weights as ``torch.nn`` does; the core seeds that.  In evaluation mode nothing
    is random.
    """

    Options: ClassVar[type[BaseOptions]] = NetworkOptions
    argument: ClassVar[str | None] = None
    """The option that a text after a colon gives, as other components have it."""
    linear: nn.Linear
    """The last layer, from D features to the outputs."""
    prefixes: Mapping[str, str] = {}
    """How the names of its tensors begin in files of pretrained weights, by how its own begin, where that differs:
    ``{"body.": "", "linear.": "fc."}``."""

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
            InputError: the network is not for such images, or the pretrained weights are not for it.
        """
        make: Any = self.component
        network: Network = make(image_shape, outputs, self._own_options)
        if self.weights is not None:
            take_weights(network, self._pretrained, self.weights, network.prefixes)
        return network

    @property
    def weights(self) -> Path | None:
        """The file of pretrained weights, if there is one."""
        return self.options.weights if isinstance(self.options, NetworkOptions) else None

    @property
    def _own_options(self) -> Any:
        """The options without the file: a network that is kept has its weights itself."""
        return self.options if self.weights is None else self.options.model_copy(update={"weights": None})

    @cached_property
    def _pretrained(self) -> dict[str, Tensor]:
        """What is in the file, which is read once."""
        return {} if self.weights is None else read_weights(self.weights)

    def __ltdd_identity__(self) -> Any:
        """All that decides the networks: of a file of weights what is in it, wherever it lies."""
        return [self.component, self._own_options, digest_of(self._pretrained)]
