"""Finished loops for the common kinds of matcher: write the loss, inherit the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.distillation.matcher import Batch, Distillation, Matcher, Synthetic
from ltdd_core.networks.network import Network
from ltdd_core.options import BaseOptions, option
from ltdd_core.seeding import generator


class BatchMatcher(Matcher, ABC):
    """One loss for all classes a step, on a fresh random network, and one step of SGD on the pixels.

    The real and the synthetic images of a class share one draw of the augmentation.
    """

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

    sums_over_classes: ClassVar[bool] = False
    """Whether :meth:`loss` is a sum over classes whose terms depend on the images of their class alone, and leaves
    nothing behind.  Then the processes of a run share the classes, and ``loss`` is given those of its process."""
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
            real: up to ``batch_real`` real images of every class.
            synthetic: all synthetic images under the augmentation of their real images.
        """

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images."""
        self.task = task
        self.images = task.initial_images.clone().requires_grad_(True)
        if task.keep_real:
            self.images.register_hook(task.without_kept)
        self.labels = task.initial_labels
        self.optimizer = torch.optim.SGD([self.images], lr=self.options.lr_img, momentum=self.options.momentum)
        self.keep(images=self.images, optimizer=self.optimizer)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """The real images that are drawn, and the synthetic ones."""
        return sum(min(count, self.options.batch_real) for count in counts) + sum(ipc_of_class)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One step on all classes."""
        return {"loss": self.descend(self.task.networks.fresh(step), step)}

    def descend(self, network: Network, number: int) -> Tensor:
        """One step of the pixels down the loss of a draw of images; the loss, a scalar without gradient.

        Args:
            network: that the loss is given.
            number: of the draw, as of :meth:`batches`.
        """
        self.optimizer.zero_grad()
        if not self.sums_over_classes or ranks.count() == 1:
            loss = self.loss(network, *self.batches(number))
            loss.backward()
            self.optimizer.step()
            return loss.detach()
        self.images.grad, total = torch.zeros_like(self.images), torch.zeros((), device=self.images.device)
        if own := ranks.share_of_classes(self.task.data.classes):
            loss = self.loss(network, *self.batches(number, own))
            loss.backward()
            total += loss.detach()
        ranks.summed(self.images.grad, total)
        self.optimizer.step()
        return total

    def distilled(self) -> Synthetic:
        """The pixels and their classes."""
        return Synthetic(self.images.detach(), self.labels)

    def batches(self, number: int, classes: Sequence[int] | None = None) -> tuple[Batch, Batch]:
        """A draw of real images of every class, and the synthetic images, with a separate augmentation for each class.

        Args:
            number: of the draw; what is drawn of a class is a function of the seed, the number and the class.
            classes: one at least, in their order, whose images are wanted; all unless given.
        """
        task, data = self.task, self.task.data
        real, labels, synthetic, of_synthetic = [], [], [], []
        of_class = self.images.split(self.task.ipc_of_class)
        for label in range(data.classes) if classes is None else classes:
            class_images = of_class[label]
            draws = generator(task.seed, "real batch", number, label)
            indices = task.sampler.of_class(label, self.options.batch_real, draws)
            augmenting = generator(task.seed, "augmentation", number, label)
            transform = task.augmentation.draw(data.image_shape, augmenting)
            images = data.train_images[indices].to(task.device, non_blocking=True)
            real.append(transform(data.normalisation.apply(images)))
            labels.append(data.train_labels[indices])
            seen = self.decode(class_images).flatten(0, 1)
            synthetic.append(transform(seen))
            of_synthetic.append(torch.full((len(seen),), label))
        return _joined(real, labels), _joined(synthetic, of_synthetic)


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
            self.class_loss(network, real.of_class(label), synthetic.of_class(label))
            for label in range(len(real.counts))
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
    member = torch.nn.functional.one_hot(labels, len(counts)).to(features.dtype)  # [n, classes]
    return (member.T @ features) / counts[:, None]


def _joined(images: list[Tensor], labels: list[Tensor]) -> Batch:
    counts = torch.tensor([len(part) for part in images])
    return Batch(torch.cat(images), torch.cat(labels).to(images[0].device), counts)
