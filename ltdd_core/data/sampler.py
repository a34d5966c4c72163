"""Samplers, which draw real images, and the draw by class that samplers and heads have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from ltdd_core.data.sets import LongTailedSet
from ltdd_core.options import Component


def draw_by_class(labels: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """As many draws as there are images, each of class c with probability w_c / sum_j w_j, then of any of its images.

    Draws are with replacement.  A class without an image is never drawn, whatever its weight.

    Args:
        labels: int64 ``[N]``, from 0 to ``len(weights) - 1``.
        weights: float64 ``[classes]``, not negative.
        generator: on the CPU; the draws are a function of it.

    Returns:
        Indices into ``labels``, int64 ``[N]`` on the CPU.

    Raises:
        ValueError: the weight of a class that has images is negative or not finite, or all of them are 0.
    """
    labels, weights = labels.cpu(), weights.cpu()
    counts = torch.bincount(labels, minlength=len(weights))
    weights = torch.where(counts > 0, weights, 0)
    if not torch.isfinite(weights).all() or (weights < 0).any() or not (weights > 0).any():
        raise ValueError(f"weights of classes must be finite, not negative and not all 0: {weights.tolist()}")
    drawn = torch.multinomial(weights, len(labels), replacement=True, generator=generator)
    within = torch.rand(len(labels), dtype=torch.float64, generator=generator) * counts[drawn]
    first = counts.cumsum(0) - counts
    return labels.argsort(stable=True)[first[drawn] + within.long()]


class Features(Protocol):
    """What networks that were trained on the long-tailed set say of the training images of a class.

    Networks are trained when something is first asked of them, so a sampler that asks for nothing costs nothing.  The
    images are in the order of their indices, and not augmented.  Tensors are float32 on the CPU.
    """

    def __call__(self, label: int) -> Tensor:
        """Features ``[n_c, D]`` by the run's network, trained as a plain classifier on the long-tailed set.

        Args:
            label: the class.
        """
        ...

    def dynamics(
        self, label: int, statistic: Callable[[Tensor, Tensor], Tensor], *, networks: int = 1, part: float = 1.0
    ) -> Tensor:
        """A statistic after each epoch of a training, ``[networks, epochs, n_c]``.

        It costs a training of each network, as ``training.original`` says, and a forward pass of all training images
        after each epoch.  What is found is kept in the network store.

        Args:
            label: the class.
            statistic: ``(logits [n, classes], labels [n]) -> [n]``: a number for each image.
            networks: how many, each from initial weights of its own.
            part: share of the epochs after which the trainings end, above 0 and at most 1; one epoch at least.

        Raises:
            RunFailed: a training diverged.
        """
        ...


Embed = Callable[[Tensor], Tensor]
"""``embed(indices)``: float32 ``[n, D]`` on the CPU, features of training images by a random network, not augmented."""


class Sampler(Component, ABC):
    """Draws real images, as int64 indices into the training images.  Class counts of 1 are a normal case.

    What is drawn is a function of the arguments: everything random comes from ``generator``.
    """

    @abstractmethod
    def prepare(self, data: LongTailedSet) -> None:
        """Get to know the long-tailed set; called once before anything is drawn."""

    @abstractmethod
    def of_class(self, label: int, size: int, generator: torch.Generator) -> Tensor:
        """Indices ``[min(size, n_c)]`` of images of one class, none twice, for a matching step."""

    @property
    def interval(self) -> int:
        """In how many matching steps in a row the images of a class are the same; at least 1."""
        return 1

    def for_matching(self, label: int, size: int, generator: torch.Generator, embed: Embed) -> Tensor:
        """As :meth:`of_class`, for a sampler that chooses the images of a matching step by their features.

        Unless it is overridden, what ``of_class`` draws.

        Args:
            label: the class.
            size: how many images are wanted.
            generator: what is drawn is a function of it.
            embed: gives features of training images; the network is another one after each ``interval`` of steps.

        Returns:
            Indices ``[min(size, n_c)]``, none twice.
        """
        return self.of_class(label, size, generator)

    @abstractmethod
    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """Indices ``[N]`` in the order in which one epoch of training sees them.

        ``progress`` goes from 0 in the first epoch to 1 in the last.
        """

    @abstractmethod
    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """Indices ``[min(ipc, n_c)]`` of images that stand for a class, none twice: a coreset, or initial images."""
