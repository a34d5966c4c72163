"""The network as a function of one flat vector of parameters, with the derivatives that the inner loop needs.

They are written with ``torch.func``, a gradient inside a gradient in one function, so that ``torch.compile``
traces them, second derivatives included, into one graph.  (It refuses to go backward twice through a compiled
network.)
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_
from torch.nn import functional as F

from ltdd_core import Network, compiled_function, precision_context, share_of_batch, summed_over_processes

Layout = list[tuple[str, tuple[int, ...]]]
LAST_LAYER = "linear."
"""How the names of the parameters of a network's last layer begin."""


def layout_of(network: nn.Module) -> Layout:
    """Names and shapes of the parameters, in the order in which a flat vector holds them."""
    return [(name, tuple(value.shape)) for name, value in network.named_parameters()]


def in_last_layer(network: nn.Module) -> Tensor:
    """Which of all parameters are those of the last layer, bool ``[P]`` on the CPU."""
    parts = [torch.full((value.numel(),), name.startswith(LAST_LAYER)) for name, value in network.named_parameters()]
    return torch.cat(parts)


class Pulled(NamedTuple):
    """What :meth:`Student.pullback` gives."""

    gradient: Tensor
    """g, the gradient of the loss, ``[P]``."""
    images: Tensor
    """d (a . g) / d images."""
    labels: Tensor | None
    """d (a . g) / d labels ``[n, classes]``, where they are probabilities."""
    theta: Tensor | None
    """d (a . g) / d theta ``[P]``, where it was asked for."""


class Student:
    """The loss of a network as a function of its parameters ``theta`` ``[P]``.

    The loss of a batch is -1/n sum_i sum_c w_c y_ic log p_ic, with p = softmax(z - s) of the logits z; unless weights w
    and shift s are given, the mean cross-entropy.  Batch normalisation takes the statistics of the batch, as in
    training; nothing is dropped out.

    All derivatives are sums over the images of a batch, so the processes of a run share them, unless batch
    normalisation looks at all of a batch.

    Args:
        network: a separate module; only its structure is used.
        precision: ``bf16`` runs the network in mixed precision; everything flat stays as it comes.
        compiled: compile the derivatives.
        chunk: images at once, unless batch normalisation looks at all of a batch.
        weights: w ``[classes]`` on the device.
        shift: s ``[classes]`` on the device.
        layer_only: theta holds the parameters of the last layer alone; the others are given as ``fixed``.
    """

    def __init__(
        self,
        network: Network,
        *,
        precision: str,
        compiled: bool,
        chunk: int,
        weights: Tensor | None = None,
        shift: Tensor | None = None,
        layer_only: bool = False,
    ) -> None:
        whole = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
        replace_all_batch_norm_modules_(network)
        self.network = network.requires_grad_(False).eval()
        everything = layout_of(network)
        moves = [name.startswith(LAST_LAYER) or not layer_only for name, _ in everything]
        self.layout = [part for part, moving in zip(everything, moves, strict=True) if moving]
        self._fixed = [part for part, moving in zip(everything, moves, strict=True) if not moving]
        self._weights, self._shift = weights, shift
        self._precision, self._chunk = precision, None if whole else chunk
        self._gradient, self._pullback = self._gradient_of_part, self._pullback_of_part
        if compiled:
            self._gradient = compiled_function(self._gradient)
            self._pullback = compiled_function(self._pullback)

    def gradient(
        self, theta: Tensor, images: Tensor, labels: Tensor, fixed: Tensor | None = None, *, graph: bool = False
    ) -> Tensor:
        """Gradient ``[P]`` of the loss of a batch.

        Args:
            theta: the parameters that move.
            images: float32 ``[n, C, H, W]``.
            labels: classes, int64 ``[n]``, or probabilities ``[n, classes]``.
            fixed: the other parameters, where there are some.
            graph: the result is to be differentiated again by autograd; never compiled.
        """
        part_gradient = self._gradient_of_part if graph else self._gradient
        total = torch.zeros_like(theta)
        for rows in self._parts(len(images), own=not graph):
            total = total + part_gradient(theta, fixed, images[rows], labels[rows], len(images))
        if self._shares and not graph:
            summed_over_processes(total)
        return total

    def pullback(
        self,
        theta: Tensor,
        images: Tensor,
        labels: Tensor,
        a: Tensor,
        fixed: Tensor | None = None,
        *,
        theta_too: bool,
    ) -> Pulled:
        """The gradient g of a batch, and that of the number ``a . g`` in images, probabilities and parameters.

        Args:
            theta: the parameters that move.
            images: float32 ``[n, C, H, W]``.
            labels: classes, int64 ``[n]``, or probabilities ``[n, classes]``.
            a: a constant direction ``[P]``.
            fixed: the other parameters, where there are some.
            theta_too: whether the derivative to the parameters is wanted.
        """
        soft = labels.is_floating_point()
        found = Pulled(
            torch.zeros_like(theta),
            torch.zeros_like(images),
            torch.zeros_like(labels) if soft else None,
            torch.zeros_like(theta) if theta_too else None,
        )
        for rows in self._parts(len(images), own=True):
            part = self._pullback(theta, fixed, images[rows], labels[rows], a, len(images), theta_too)
            gradient, found.images[rows], by_labels, by_theta = part
            found.gradient.add_(gradient)
            if found.labels is not None and by_labels is not None:
                found.labels[rows] = by_labels
            if found.theta is not None and by_theta is not None:
                found.theta.add_(by_theta)
        if self._shares:
            summed_over_processes(*(each for each in found if each is not None))
        return found

    def logits(self, row: Tensor, images: Tensor) -> Tensor:
        """Logits ``[n, classes]`` of the network with all its parameters in one vector; no graph is made.

        Args:
            row: all parameters, in the order of ``network.parameters()``.
            images: normalised, float32 ``[n, C, H, W]``, any number of them.
        """
        layout = layout_of(self.network)
        with torch.no_grad():
            values = named(row, layout)
            parts = images.tensor_split(1 if self._chunk is None else math.ceil(len(images) / self._chunk))
            return torch.cat([self._forward(values, part, row.dtype) for part in parts])

    def _parts(self, images: int, *, own: bool) -> list[slice]:
        """A batch in parts of (almost) equal size, so that one compiled graph does for all.

        Args:
            images: in the batch.
            own: only those that this process of a run goes through, where the processes share the batch.
        """
        rows = range(images)[share_of_batch(images) if own and self._shares else slice(None)]
        count = 1 if self._chunk is None else math.ceil(len(rows) / self._chunk)
        ends = [rows.start + place * len(rows) // max(1, count) for place in range(count + 1)]
        return [slice(*each) for each in pairwise(ends)]

    @property
    def _shares(self) -> bool:
        """Whether the processes of a run may share a batch: batch normalisation needs all of it."""
        return self._chunk is not None

    def _forward(self, parameters: dict[str, Tensor], images: Tensor, dtype: torch.dtype) -> Tensor:
        with precision_context(self._precision, images.device):
            logits: Tensor = functional_call(self.network, parameters, (images,))
        return logits.to(dtype)

    def _loss(self, theta: Tensor, fixed: Tensor | None, images: Tensor, labels: Tensor, batch: int) -> Tensor:
        """The share of some images in the loss of a batch of so many."""
        parameters = named(theta, self.layout) | ({} if fixed is None else named(fixed, self._fixed))
        logits = self._forward(parameters, images, theta.dtype)
        if self._shift is not None:
            logits = logits - self._shift.to(theta.dtype)
        weights = None if self._weights is None else self._weights.to(theta.dtype)
        return F.cross_entropy(logits, labels, weight=weights, reduction="sum") / batch

    def _gradient_of_part(
        self, theta: Tensor, fixed: Tensor | None, images: Tensor, labels: Tensor, batch: int
    ) -> Tensor:
        return grad(self._loss)(theta, fixed, images, labels, batch)

    def _pullback_of_part(
        self,
        theta: Tensor,
        fixed: Tensor | None,
        images: Tensor,
        labels: Tensor,
        a: Tensor,
        batch: int,
        theta_too: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        soft = labels.is_floating_point()

        def along(images: Tensor, labels: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
            gradient = grad(self._loss)(theta, fixed, images, labels, batch)
            return a @ gradient, gradient

        wanted = (0, *((1,) if soft else ()), *((2,) if theta_too else ()))
        found, gradient = grad(along, argnums=wanted, has_aux=True)(images, labels, theta)
        return gradient, found[0], found[1] if soft else None, found[-1] if theta_too else None


def named(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """The parameters in a flat vector ``[P]``, by name, each in its shape."""
    values = flat.split([math.prod(shape) for _, shape in layout])
    return {name: value.view(shape) for (name, shape), value in zip(layout, values, strict=True)}
