"""The network as a function of one flat vector of parameters, with the two derivatives that the inner loop needs.

Both are written with ``torch.func``, a gradient inside a gradient in one function, so that ``torch.compile``
traces them, second derivatives included, into one graph.  (It refuses to go backward twice through a compiled
network.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_
from torch.nn import functional as F

from ltdd_core import Network, compiled_function, precision_context

Layout = list[tuple[str, tuple[int, ...]]]


def layout_of(network: nn.Module) -> Layout:
    """Names and shapes of the parameters, in the order in which a flat vector holds them."""
    return [(name, tuple(value.shape)) for name, value in network.named_parameters()]


class Pulled(NamedTuple):
    """What :meth:`Student.pullback` gives."""

    gradient: Tensor
    """g, the gradient of the loss, ``[P]``."""
    images: Tensor
    """d (a . g) / d images."""
    theta: Tensor | None
    """d (a . g) / d theta ``[P]``, where it was asked for."""


class Student:
    """Mean cross-entropy of a network as a function of its parameters ``theta`` ``[P]``.

    Batch normalisation takes the statistics of the batch, as in training; nothing is dropped out.

    Args:
        network: a separate module; only its structure is used.
        precision: ``bf16`` runs the network in mixed precision; everything flat stays as it comes.
        compiled: compile both derivatives.
        chunk: images at once, unless batch normalisation looks at all of a batch.
    """

    def __init__(self, network: Network, *, precision: str, compiled: bool, chunk: int) -> None:
        whole = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
        replace_all_batch_norm_modules_(network)
        self.network = network.requires_grad_(False).eval()
        self.layout = layout_of(network)
        self._sizes = [math.prod(shape) for _, shape in self.layout]
        self._precision, self._chunk = precision, None if whole else chunk
        self._gradient, self._pullback = self._gradient_of_part, self._pullback_of_part
        if compiled:
            self._gradient = compiled_function(self._gradient)
            self._pullback = compiled_function(self._pullback)

    def gradient(self, theta: Tensor, images: Tensor, labels: Tensor, *, graph: bool = False) -> Tensor:
        """Gradient ``[P]`` of the loss of a batch.

        Args:
            graph: the result is to be differentiated again by autograd; never compiled.
        """
        part_gradient = self._gradient_of_part if graph else self._gradient
        total = torch.zeros_like(theta)
        for part, own in self._parts(images, labels):
            total = total + part_gradient(theta, part, own, len(images))
        return total

    def pullback(self, theta: Tensor, images: Tensor, labels: Tensor, a: Tensor, *, theta_too: bool) -> Pulled:
        """The gradient g of a batch, and that of the number ``a . g`` with respect to images and parameters.

        Args:
            a: a constant direction ``[P]``.
            theta_too: whether the derivative to the parameters is wanted.
        """
        parts = [
            self._pullback(theta, part, own, a, len(images), theta_too) for part, own in self._parts(images, labels)
        ]
        gradients, by_images, by_theta = zip(*parts, strict=True)
        return Pulled(sum(gradients[1:], gradients[0]), torch.cat(by_images), _total(by_theta) if theta_too else None)

    def _parts(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The batch in parts of (almost) equal size, so that one compiled graph does for all."""
        count = 1 if self._chunk is None else math.ceil(len(images) / self._chunk)
        return list(zip(images.tensor_split(count), labels.tensor_split(count), strict=True))

    def _loss(self, theta: Tensor, images: Tensor, labels: Tensor, batch: int) -> Tensor:
        """The share of some images in the loss of a batch of so many."""
        values = theta.split(self._sizes)
        parameters = {name: value.view(shape) for (name, shape), value in zip(self.layout, values, strict=True)}
        with precision_context(self._precision, images.device):
            logits = functional_call(self.network, parameters, (images,))
        return F.cross_entropy(logits.to(theta.dtype), labels, reduction="sum") / batch

    def _gradient_of_part(self, theta: Tensor, images: Tensor, labels: Tensor, batch: int) -> Tensor:
        return grad(self._loss)(theta, images, labels, batch)

    def _pullback_of_part(
        self, theta: Tensor, images: Tensor, labels: Tensor, a: Tensor, batch: int, theta_too: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        def along(images: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
            gradient = grad(self._loss)(theta, images, labels, batch)
            return a @ gradient, gradient

        if theta_too:
            (by_images, by_theta), gradient = grad(along, argnums=(0, 1), has_aux=True)(images, theta)
            return gradient, by_images, by_theta
        by_images, gradient = grad(along, has_aux=True)(images, theta)
        return gradient, by_images, None


def _total(tensors: Any) -> Tensor:
    result: Tensor = sum(tensors[1:], tensors[0])
    return result
