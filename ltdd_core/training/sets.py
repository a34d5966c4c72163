"""Images that train a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ltdd_core.data.normalisation import Normalisation
from ltdd_core.identity import identity
from ltdd_core.storage import digest_of
from ltdd_core.training.soft_labels import SoftLabels

T = TypeVar("T")
AHEAD = 3
"""Batches that are gathered before they are asked for."""

ViewLabels = Callable[[Tensor], SoftLabels]
"""Normalised images, float32 ``[n, C, H, W]`` -> a soft label of each, on their device."""
EpochOrder = Callable[[float, torch.Generator], Tensor]
"""``(progress from 0 to 1, generator) -> indices`` of one epoch; see :meth:`Sampler.epoch`."""


@dataclass(frozen=True)
class TrainingSet:
    """Images that train a stage of a classifier."""

    name: str
    """``original`` or ``distilled``; training options are looked up under it."""
    images: Tensor
    """``[N, C, H, W]``, uint8 raw images or float32 normalised ones."""
    labels: Tensor
    """The class of each image, int64 ``[N]``."""
    normalisation: Normalisation
    """Turns raw images into network inputs; images that are float32 are normalised already."""
    classes: int
    """Number of classes; labels are from 0 to ``classes - 1``."""
    order: EpochOrder | None = None
    """Orders the epochs (a sampler's ``epoch``); None shuffles."""
    soft_labels: SoftLabels | None = None
    """What a teacher says of each image, where there is one."""
    view_labels: ViewLabels | None = None
    """Labels images as a step sees them, augmented and mixed, in place of ``soft_labels``: a teacher at work."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 ``[n, C, H, W]``, and the class of each, int64 ``[n]``, on a device.

        Args:
            indices: of the images, int64 ``[n]``, on the CPU.
            device: where the batch is put.
        """
        return self._seen(self.images[indices], device), self.labels[indices].to(device, non_blocking=True)

    def _seen(self, images: Tensor, device: torch.device) -> Tensor:
        images = images.to(device, non_blocking=True)
        return self.normalisation.apply(images) if images.dtype == torch.uint8 else images

    def batches(self, order: Iterable[Tensor], device: torch.device) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """The indices of each batch, and the batch as of :meth:`batch`.

        Images that stay on the CPU while a GPU trains are gathered ahead of it.

        Args:
            order: indices of each batch, int64 ``[n]``, on the CPU.
            device: where the batches are put.
        """
        if device.type == "cpu" or self.images.device.type != "cpu":
            for indices in order:
                yield indices, self.batch(indices, device)
            return

        def gathered(indices: Tensor) -> tuple[Tensor, Tensor]:
            return indices, self.images[indices].pin_memory()

        for indices, images in made_ahead(gathered, order):
            yield indices, (self._seen(images, device), self.labels[indices].to(device, non_blocking=True))

    def only(self, kept: Tensor) -> TrainingSet:
        """A part of the set; its order is that of the whole set with the other images left out.

        Args:
            kept: which images stay, bool ``[N]``.
        """
        order: EpochOrder | None = None
        if self.order is not None:
            whole, position = self.order, kept.cumsum(0) - 1

            def order(progress: float, draws: torch.Generator) -> Tensor:
                drawn = whole(progress, draws)
                return position[drawn[kept[drawn]]]

        soft = None if self.soft_labels is None else self.soft_labels[kept]
        return replace(self, images=self.images[kept], labels=self.labels[kept], soft_labels=soft, order=order)

    @cached_property
    def steady(self) -> bool:
        """Whether the order of an epoch is the same at all of eleven stages of a training."""
        if self.order is None:
            return True
        orders = [self.order(progress / 10, torch.Generator().manual_seed(0)) for progress in range(11)]
        return all(torch.equal(orders[0], other) for other in orders)

    def identity(self) -> Any:
        """What decides the batches of a training: every pixel and label, the normalisation, the order, as JSON.

        Raises:
            Unidentified: what decides the order, or the labels of views, cannot be told.
        """
        return [
            self._digest,
            self.normalisation.to_json(),
            self.classes,
            identity(self.order),
            identity(self.view_labels),
        ]

    @cached_property
    def _digest(self) -> str:
        tensors = {"images": self.images, "labels": self.labels, **self.normalisation.tensors()}
        if self.soft_labels is not None:
            tensors[f"soft labels: {self.soft_labels.kind}"] = self.soft_labels.values
        return digest_of(tensors)

    def targets(self) -> Tensor:
        """What a loss is given: probabilities ``[N, classes]`` where there are soft labels, else the class ``[N]``."""
        return self.labels if self.soft_labels is None else self.soft_labels.probabilities()

    def counts(self) -> Tensor:
        """Images of each class, float64 ``[classes]`` on the CPU."""
        return torch.bincount(self.labels.cpu(), minlength=self.classes).double()

    def __len__(self) -> int:
        return len(self.labels)


def made_ahead(make: Callable[[Tensor], T], order: Iterable[Tensor], ahead: int = AHEAD) -> Iterator[T]:
    """``make`` of each item, in their order, made by a thread while the ones before it are used.

    Args:
        make: of an item.
        order: the items.
        ahead: how many are made before they are asked for, at least 1.
    """
    waiting, pool = deque[Future[T]](), ThreadPoolExecutor(1)
    try:
        for item in order:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
