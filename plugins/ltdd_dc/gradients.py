"""Gradients of the classification loss on real and on synthetic images, and of their distance in the pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call, grad, grad_and_value

from ltdd_core import Batch, CompiledNetwork, Network, compiled_function, cross_entropy, gradient_in_chunks
from ltdd_dc.distance import DISTANCES, Distance, Gradient, compares

SECOND_ORDER = 8  # an image takes about so many times the memory when its gradient is differentiated again


class GradientMatching:
    """The distances between the gradients on the real and on the synthetic images of each class.

    Args:
        network: the network, whose weights may change between calls.
        distance: a name in :data:`ltdd_dc.distance.DISTANCES`.
        chunk: images at once through the network.
        batched: differentiate several classes at once (``torch.func.vmap``) instead of one after another.
        compiled: compile the gradient of the distance in the pixels.
        keep_going: called between classes; raises to stop.
    """

    def __init__(
        self,
        network: CompiledNetwork,
        distance: str,
        *,
        chunk: int,
        batched: bool,
        compiled: bool,
        keep_going: Callable[[], None],
    ) -> None:
        self.network, self.chunk, self.batched, self.keep_going = network, chunk, batched, keep_going
        # A compiled network cannot be differentiated twice, but the whole of both gradients can be compiled.
        eager = network.eager
        self._parameters = dict(eager.named_parameters())
        self._compared = [name for name, value in self._parameters.items() if compares(distance, value)]
        pixel_gradient = _pixel_gradient(eager, DISTANCES[distance])
        if batched:
            pixel_gradient = torch.vmap(pixel_gradient, in_dims=(0, 0, 0, None, None))
        else:
            pixel_gradient = _of_one(pixel_gradient)
        self._pixel_gradient = compiled_function(pixel_gradient) if compiled else pixel_gradient

    def __call__(self, real: Batch, synthetic: Batch) -> tuple[Tensor, Tensor]:
        """Distances ``[classes]`` and the gradient of their sum in the synthetic images ``[n, C, H, W]``."""
        distances, gradients = [], []
        for places in torch.arange(len(synthetic.counts)).split(self._at_once(synthetic.counts)):
            targets = self._real_gradients(real, places.tolist())
            images = torch.stack([synthetic.of_class(place).detach() for place in places.tolist()])
            labels = torch.stack([synthetic.labels_of(place) for place in places.tolist()])
            gradient, distance = self._pixel_gradient(images, labels, targets, *self._weights())
            gradients.append(gradient.flatten(0, 1))
            distances.append(distance)
        return torch.cat(distances), torch.cat(gradients)

    def _at_once(self, counts: Tensor) -> int:
        """How many classes go through the network together: several only if they have as many images."""
        stackable = self.batched and len(counts.unique()) == 1
        return max(1, self.chunk // (SECOND_ORDER * int(counts[0]))) if stackable else 1

    def _weights(self) -> tuple[Gradient, Gradient]:
        """The parameters that the distance compares, and the rest."""
        weights = {name: value.detach() for name, value in self._parameters.items()}
        return {name: weights.pop(name) for name in self._compared}, weights

    def _real_gradients(self, real: Batch, places: list[int]) -> Gradient:
        """Gradients on the real images of some classes ``[len(places), ...]``, by parameter."""
        parameters, class_gradients = [self._parameters[name] for name in self._compared], []
        for place in places:
            self.keep_going()
            images, labels = real.of_class(place), real.labels_of(place)
            gradient = gradient_in_chunks(self.network, parameters, images, labels, cross_entropy, self.chunk)
            class_gradients.append(gradient)
        return {
            name: torch.stack(layer)
            for name, layer in zip(self._compared, zip(*class_gradients, strict=True), strict=True)
        }


PixelGradient = Callable[[Tensor, Tensor, Gradient, Gradient, Gradient], tuple[Tensor, Tensor]]
"""``(images [IPC, C, H, W], labels [IPC], real gradient, compared parameters, the rest) -> (gradient, distance)``."""


def _pixel_gradient(network: Network, distance: Distance) -> PixelGradient:
    """The gradient, in the pixels, of the distance between the gradients on synthetic and on real images."""

    def loss(compared: Gradient, uncompared: Gradient, images: Tensor, labels: Tensor) -> Tensor:
        # CompiledNetwork holds its linear layer under two names; tied, the second would be swapped in for good.
        logits = functional_call(network, {**compared, **uncompared}, (images,), tie_weights=False)
        return cross_entropy(logits, labels)

    def distance_of(
        images: Tensor, labels: Tensor, target: Gradient, compared: Gradient, uncompared: Gradient
    ) -> Tensor:
        return distance(grad(loss)(compared, uncompared, images, labels), target)

    return grad_and_value(distance_of)


def _of_one(pixel_gradient: PixelGradient) -> PixelGradient:
    """The same for a batch that holds one class."""

    def batch_of_one(
        images: Tensor, labels: Tensor, targets: Gradient, compared: Gradient, uncompared: Gradient
    ) -> tuple[Tensor, Tensor]:
        target = {name: value[0] for name, value in targets.items()}
        gradient, distance = pixel_gradient(images[0], labels[0], target, compared, uncompared)
        return gradient[None], distance[None]

    return batch_of_one
