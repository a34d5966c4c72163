"""Networks to match with, most of them random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.network import MakeNetwork, Network, Shape
from ltdd_core.networks.trajectory import fill_parameters
from ltdd_core.seeding import global_generator


class NetworkPool:
    """Networks to match with, their weights a function of (seed, step).

    The modules themselves are made once and refilled, so that ``torch.compile`` compiles them once.

    Args:
        make: makes a network with random weights, from an image shape and a number of classes.
        image_shape: ``(C, H, W)`` of the images.
        classes: number of classes, which are the outputs of each network.
        seed: of the weights.
        device: where the networks are.
        calibration: ``step -> images``, a few of every class; batch normalisation takes its statistics from
            them and keeps them (as DC's public code does), since a batch sorted by class has none of use.
        precision: ``bf16`` runs ``embed`` in mixed precision, ``fp32`` as it is.
        compiled: compile ``embed``.
    """

    def __init__(
        self,
        make: MakeNetwork,
        image_shape: Shape,
        classes: int,
        *,
        seed: int,
        device: torch.device,
        calibration: Callable[[int], Tensor],
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        self.precision, self.compiled = precision, compiled
        self._make, self._shape, self._classes, self._seed = make, image_shape, classes, seed
        self._device, self._calibration = device, calibration
        self._frozen: CompiledNetwork | None = None
        self._trainable: CompiledNetwork | None = None

    def fresh(self, step: int) -> Network:
        """The network with new random weights for a step; it shares its memory with the last one.

        Its parameters do not require gradients.

        Args:
            step: of the matcher; the weights are a function of the seed and the step.
        """
        return self._refilled(self._without_gradients(), step)

    def holding(self, parameters: Tensor, step: int) -> Network:
        """The network of :meth:`fresh` with other weights, such as those of a trained one; it shares its memory.

        Batch normalisation takes its statistics from a few images of every class, as in a random network.

        Args:
            parameters: float32 ``[P]``, all of them in one vector, in the order of ``network.parameters()``.
            step: of the matcher, which decides these images.

        Raises:
            ValueError: a network of this kind has another number of parameters.
        """
        network = self._without_gradients()
        inner = network.inner
        wanted = sum(value.numel() for value in inner.parameters())
        if len(parameters) != wanted:
            raise ValueError(f"{len(parameters)} numbers are not the {wanted} parameters of the network")
        fill_parameters(inner, parameters)
        inner.eval()
        self._freeze_batch_statistics(inner, step)
        return network

    def trainable(self, step: int) -> CompiledNetwork:
        """As :meth:`fresh`, for methods that train it or match its gradients: its parameters require them.

        Its memory is shared with the last one that this method gave, not with :meth:`fresh`.
        """
        if self._trainable is None:
            self._trainable = CompiledNetwork(self.new("network"), self.precision, self.compiled)
        return self._refilled(self._trainable, step)

    def new(self, purpose: str, step: int = 0) -> Network:
        """A separate network for a purpose, in fp32, not compiled, with parameters that require gradients.

        Args:
            purpose: names the network; its weights are a function of the seed, the purpose and the step.
            step: of the matcher; 0 for a network that serves all steps.
        """
        with global_generator(self._seed, purpose, step):
            return self._make(self._shape, self._classes).to(self._device)

    def _without_gradients(self) -> CompiledNetwork:
        """The one module of :meth:`fresh`, with the weights of the last call."""
        if self._frozen is None:
            inner = self.new("network").requires_grad_(False)
            if self._device.type == "cpu" and (self.precision == "fp32" or self.compiled):  # far slower in eager bf16
                inner = inner.to(memory_format=torch.channels_last)
            self._frozen = CompiledNetwork(inner, self.precision, self.compiled)
        return self._frozen

    def _refilled(self, network: CompiledNetwork, step: int) -> CompiledNetwork:
        with global_generator(self._seed, "network", step):
            source = self._make(self._shape, self._classes)
        network.inner.load_state_dict(source.state_dict())
        network.inner.eval()
        self._freeze_batch_statistics(network.inner, step)
        return network

    def _freeze_batch_statistics(self, inner: Network, step: int) -> None:
        layers = [m for m in inner.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not layers:
            return
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain average of what is seen
            layer.train()
        with torch.no_grad():
            inner.embed(self._calibration(step))
        for layer in layers:
            layer.eval()
