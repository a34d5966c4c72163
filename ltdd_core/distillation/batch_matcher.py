"""Finished loops for the common kinds of matcher: write the loss, inherit the rest."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.distillation.matcher import Batch, Matcher, Synthetic
from ltdd_core.distillation.task import SYNTHETIC_PIXELS, Distillation
from ltdd_core.distillation.tiles import untiled
from ltdd_core.networks.network import Network
from ltdd_core.options import BaseOptions, option
from ltdd_core.runs.devices import give_back_freed_memory
from ltdd_core.seeding import generator

REAL_BYTES = 256 * 2**20
"""Real images, in float32, of the classes that are matched together."""
SMALLEST_TILE = 8  # pixels a side; tiles of 4x4 are worse than images of 8x8, see docs/feature-methods.md


class BatchMatcher(Matcher, ABC):
    """One loss for all classes a step, on a fresh random network, and one step of SGD on the pixels.

    The real and the synthetic images of a class share one draw of the augmentation.  A stored image may hold several
    tiles, each of which a network sees at full size (Kim et al., "Dataset Condensation via Efficient Synthetic-Data
    Parameterization", ICML 2022).
    """

    sums_over_classes: ClassVar[bool] = False
    """Whether the loss is a sum of losses of single classes, each of which depends on the images of its class alone.

    Then a step that has many images goes through groups of classes, one after another: memory follows the group and
    time the number of classes.  The processes of a run share the classes, so a loss must leave nothing behind that the
    next step needs.  The step is the same up to rounding."""

    class Options(BaseOptions):
        """Options of the loop; defaults of DM's public code."""

        lr_img: float = option(1.0, "learning rate of the pixels", source="DM, public code", gt=0)
        momentum: float = option(
            0.5, "momentum of the SGD that moves the pixels", source="DC and DM, public code", ge=0, lt=1
        )
        batch_real: int = option(
            256,
            "number of real images per class in a step; all images of a class that has fewer",
            source="DC and DM, public code",
            ge=1,
        )
        factor: int | None = option(
            None,
            "tiles beside and below each other in a stored image, each of which a network sees at full size",
            ge=1,
            unless_given="1, so the image is seen as it is",
        )

    usual_factor: ClassVar[int] = 1
    """Tiles a side where the option says nothing; 1 where they would have fewer than 8x8 pixels."""
    task: Distillation
    """What the matcher works with, from :meth:`prepare` on."""
    images: Tensor
    """The synthetic images, float32 ``[n, C, H, W]``, sorted by class, on the device; those that the run keeps do not
    move."""

    @abstractmethod
    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """A scalar to minimise over ``synthetic.images``.

        Args:
            network: a random network, new in every step, whose parameters require no gradients.
            real: up to ``batch_real`` real images of every class; where ``sums_over_classes``, of some classes.
            synthetic: the synthetic images of the same classes under the augmentation of their real images.
        """

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images, or from tiles of more of them.

        Raises:
            InputError: the tiles do not fit into an image.
        """
        self.task = task
        factor = self.factor_of(task.data.image_shape)
        start = task.initial_images.clone() if factor == 1 else task.initial_tiles(factor)
        self.images = start.requires_grad_(True)
        if task.keep_real:
            self.images.register_hook(task.without_kept)
        self.labels = task.initial_labels
        self.optimizer = torch.optim.SGD([self.images], lr=self.options.lr_img, momentum=self.options.momentum)
        self.keep(images=self.images, optimizer=self.optimizer)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """The real images that are drawn, and the tiles of the synthetic ones."""
        return sum(min(count, self.options.batch_real) for count in counts) + self.tiles_of_image * sum(ipc_of_class)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One step on all classes."""
        return {"loss": self.match(self.task.networks.fresh(step), step)}

    def match(self, network: Network, number: int) -> Tensor:
        """Move the images once along minus the gradient of the loss; returns the loss, detached.

        Args:
            network: given to :meth:`loss`.
            number: of the draw, as in :meth:`batches`.
        """
        self.optimizer.zero_grad()
        if self.sums_over_classes:
            loss = self._gradient_by_groups(network, number)
        else:
            loss = self.loss(network, *self.batches(number))
            loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _gradient_by_groups(self, network: Network, number: int) -> Tensor:
        """Set the gradient of the images; returns the loss.  The processes of a run share the classes."""
        ipc = self.task.ipc_of_class
        images, gradient = self.images.detach(), torch.zeros_like(self.images)
        of_class, slopes, loss = images.split(ipc), gradient.split(ipc), torch.zeros((), device=images.device)
        groups = self.own_groups()
        for classes in groups:
            self.task.keep_going()
            own = torch.cat([of_class[label] for label in classes]).requires_grad_(True)
            part = self.loss(network, *self._drawn(number, classes, own))
            (slope,) = torch.autograd.grad(part, own)
            for label, found in zip(classes, slope.split([ipc[label] for label in classes]), strict=True):
                slopes[label].copy_(found)
            loss += part.detach()
            if len(groups) > 1:  # the next one has blocks of other sizes, and both would be kept
                give_back_freed_memory()
        ranks.summed_over_processes(gradient, loss)
        self.images.grad = self.task.without_kept(gradient)
        return loss

    def own_groups(self) -> list[list[int]]:
        """The classes that this process of a run matches, all if it is the only one, in groups matched together."""
        counts, ipc = self.task.data.counts, self.task.ipc_of_class
        own = ranks.share_of_classes(len(ipc))
        groups = self.matched_together([counts[label] for label in own], [ipc[label] for label in own])
        return [[own[place] for place in places] for places in groups]

    def matched_together(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> Sequence[Sequence[int]]:
        """Which classes go through a network together in a step: as many as there is room for, and at least one.

        All of them unless ``sums_over_classes``.  ``ltdd plan`` asks for them, after :meth:`prepare`, to know how much
        memory a step needs.

        Args:
            counts: training images of each class.
            ipc_of_class: synthetic images of each class.

        Returns:
            The places of the classes in ``counts``, from 0, in ascending order, each once.
        """
        if not self.sums_over_classes:
            return [range(len(counts))]
        bytes_of_image = 4 * math.prod(self.task.data.image_shape)
        seen = self.decode(self.images[:1].detach())  # images of a stored one, in their size
        pixels_of_image = seen.shape[1] * seen.shape[3] * seen.shape[4]
        groups = []
        first = images_bytes = pixels = 0
        for place, (count, ipc) in enumerate(zip(counts, ipc_of_class, strict=True)):
            own_bytes, own_pixels = bytes_of_image * min(count, self.options.batch_real), pixels_of_image * ipc
            if place > first and (images_bytes + own_bytes > REAL_BYTES or pixels + own_pixels > SYNTHETIC_PIXELS):
                groups.append(range(first, place))
                first, images_bytes, pixels = place, 0, 0
            images_bytes, pixels = images_bytes + own_bytes, pixels + own_pixels
        return [*groups, range(first, len(counts))] if first < len(counts) else groups

    def distilled(self) -> Synthetic:
        """The pixels and their classes."""
        return Synthetic(self.images.detach(), self.labels)

    def decode(self, images: Tensor) -> Tensor:
        """The tiles of each image, at full size."""
        return untiled(images, self.factor_of(images.shape[1:]))

    def is_decoded(self, shape: Sequence[int]) -> bool:
        """Whether an image holds more than one tile, or a subclass decodes it in its own way."""
        return type(self).decode is not BatchMatcher.decode or self.factor_of(shape) > 1

    def factor_of(self, shape: Sequence[int]) -> int:
        """Tiles beside each other in an image, and below each other.

        Args:
            shape: ``(C, H, W)`` of the image.
        """
        usual = self.usual_factor if min(shape[1:]) >= self.usual_factor * SMALLEST_TILE else 1
        return self.options.factor or usual

    @property
    def tiles_of_image(self) -> int:
        """Tiles of a large enough image, for :meth:`images_per_step`, which is not told how large images are."""
        return (self.options.factor or self.usual_factor) ** 2

    def batches(self, number: int, classes: Sequence[int] | None = None) -> tuple[Batch, Batch]:
        """A draw of real images of every class, and the synthetic images, with a separate augmentation for each class.

        Args:
            number: of the draw; what is drawn of a class is a function of the seed, the number and the class.
            classes: those to draw, in ascending order; all unless given.
        """
        ipc = self.task.ipc_of_class
        if classes is None:
            return self._drawn(number, range(len(ipc)), self.images)
        of_class = self.images.split(ipc)
        return self._drawn(number, classes, torch.cat([of_class[label] for label in classes]))

    def _drawn(self, number: int, classes: Sequence[int], images: Tensor) -> tuple[Batch, Batch]:
        """The same for some classes, whose synthetic images are ``images``."""
        task, data = self.task, self.task.data
        chosen = [task.draw_real(label, self.options.batch_real, number) for label in classes]
        sizes = torch.tensor([len(indices) for indices in chosen])
        real = torch.empty(int(sizes.sum()), *data.image_shape, device=task.device)
        synthetic = []
        shown = zip(
            classes,
            chosen,
            real.split(sizes.tolist()),
            images.split([task.ipc_of_class[label] for label in classes]),
            strict=True,
        )
        for label, indices, place, class_images in shown:
            augmenting = generator(task.seed, "augmentation", number, label)
            transform = task.augmentation.draw(data.image_shape, augmenting)
            drawn = data.train_images[indices].to(task.device, non_blocking=True)
            place.copy_(transform(data.normalisation.apply(drawn)))
            synthetic.append(transform(self.decode(class_images).flatten(0, 1)))
        labels = torch.tensor(list(classes))
        tiles = torch.tensor([len(part) for part in synthetic])
        return _batch(real, labels, sizes), _batch(torch.cat(synthetic), labels, tiles)


class ClassMatcher(BatchMatcher, ABC):
    """The easy interface: the loss of one class; the classes' losses are added up."""

    sums_over_classes = True

    @abstractmethod
    def class_loss(self, network: Network, real: Tensor, synthetic: Tensor) -> Tensor:
        """A scalar to minimise for one class.

        Args:
            network: a random network, new in every step, whose parameters require no gradients.
            real: real images of the class, float32 ``[n, C, H, W]``; n may be 1.
            synthetic: its synthetic images, float32 ``[IPC, C, H, W]``, as many as the class has.
        """

    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """The sum of the classes' losses."""
        losses = [
            self.class_loss(network, real.of_class(place), synthetic.of_class(place))
            for place in range(len(real.counts))
        ]
        return torch.stack(losses).sum()


def embed_without_gradient(network: Network, images: Tensor, chunk: int) -> Tensor:
    """Features ``[n, D]`` in float32, ``chunk`` images at a time.

    A few dozen images at a time stay in a processor's cache between layers, which halves the time on a
    CPU; the features of an image do not depend on its neighbours as long as the network is in eval mode or
    has no batch statistics.

    Args:
        network: gives features of D values.
        images: float32 ``[n, C, H, W]``, normalised, on the network's device.
        chunk: number of images at a time.
    """
    with torch.no_grad():
        return torch.cat([network.embed(part).float() for part in images.split(chunk)])


def class_means(features: Tensor, counts: Tensor) -> Tensor:
    """The mean feature of each class, ``[classes, D]``, in the dtype and on the device of the features.

    Args:
        features: floating point ``[n, D]``, sorted by class.
        counts: images of each class, int64 ``[classes]``, each at least 1; their sum is n.
    """
    counts = counts.to(features.device)
    labels = torch.repeat_interleave(torch.arange(len(counts), device=features.device), counts)
    return features.new_zeros(len(counts), features.shape[1]).index_add(0, labels, features) / counts[:, None]


def _batch(images: Tensor, classes: Tensor, counts: Tensor) -> Batch:
    return Batch(images, classes.repeat_interleave(counts).to(images.device), counts)
