"""Finished loops for the common kinds of matcher: write the loss, inherit the rest."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ltdd_core.distillation.matcher import Batch, Distillation, Matcher
from ltdd_core.distillation.partition import class_centres, class_distances, max_cut
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
        momentum: float = option(0.5, "momentum of the pixels' SGD", source="DM, public code", ge=0, lt=1)
        batch_real: int = option(
            256,
            "real images of a class a step; fewer where the class has fewer",
            source="DM, public code",
            ge=1,
        )
        modes: int = option(
            1,
            "k-means modes of a class: all have the same part of its real images in a step, however many are theirs",
            source="FairDD (arXiv 2411.19623) for given subgroups",
            ge=1,
        )
        groups: int = option(
            1,
            "groups of classes that lie near each other: the losses of groups as wholes are added to those of classes",
            source="DCC (ICML 2022) for all classes as one",
            ge=1,
        )

    task: Distillation
    images: Tensor

    @abstractmethod
    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """A scalar to minimise over ``synthetic.images``.

        Both batches hold every class, or every group of classes, which then stands for a class; labels stay those of
        the classes.
        """

    def prepare(self, task: Distillation) -> None:
        """Start from the initial images."""
        self.task = task
        self.images = task.initial_images.clone().requires_grad_(True)
        self.labels = task.initial_labels
        self.optimizer = torch.optim.SGD([self.images], lr=self.options.lr_img, momentum=self.options.momentum)
        self.optimizer.zero_grad()
        self._velocity()
        self.modes = modes_of(task, self.options.modes)
        self.groups = groups_of(task, self.options.groups) if self.options.groups > 1 else []

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """One step on all classes."""
        network = self.task.networks.fresh(step)
        loss = self.batch_loss(network, step)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def batch_loss(self, network: Network, number: int) -> Tensor:
        """The loss of a draw of real images: of the classes, and with ``groups`` of the groups too."""
        loss = self.loss(network, *self._batches([[label] for label in range(self.task.data.classes)], "", number))
        if self.groups:
            loss = loss + self.loss(network, *self._batches(self.groups, " of groups", number))
        return loss

    def state(self) -> dict[str, Tensor]:
        """Pixels and momentum."""
        return {"images": self.images.detach(), "velocity": self._velocity()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore pixels and momentum."""
        with torch.no_grad():
            self.images.copy_(state["images"])
            self._velocity().copy_(state["velocity"])

    def distilled(self) -> tuple[Tensor, Tensor]:
        """The pixels and their hard labels."""
        return self.images.detach(), self.labels

    def _velocity(self) -> Tensor:
        """SGD's momentum buffer; zeros before the first step, which is how SGD starts from None."""
        memory = self.optimizer.state[self.images]
        if memory.get("momentum_buffer") is None:
            memory["momentum_buffer"] = torch.zeros_like(self.images)
        buffer: Tensor = memory["momentum_buffer"]
        return buffer

    def _batches(self, parts: Sequence[Sequence[int]], of: str, number: int) -> tuple[Batch, Batch]:
        """A real draw and the synthetic images of every class or group, both under that part's augmentation."""
        task, real, synthetic, real_labels, own_labels = self.task, [], [], [], []
        data = task.data
        draws = generator(task.seed, f"real batch{of}", number)
        augmenting = generator(task.seed, f"augment{of}", number)
        for classes in parts:
            indices = torch.cat([self._draw(label, len(classes), draws) for label in classes])
            transform = task.augmentation.draw(data.image_shape, augmenting)
            images = data.train_images[indices].to(task.device, non_blocking=True)
            real.append(transform(data.normalisation.apply(images)))
            real_labels.append(data.train_labels[indices])
            own = torch.cat([torch.arange(label * task.ipc, (label + 1) * task.ipc) for label in classes])
            synthetic.append(transform(self.images[own]))
            own_labels.append(self.labels[own])
        return _joined(real, real_labels), _joined(synthetic, own_labels)

    def _draw(self, label: int, classes: int, draws: torch.Generator) -> Tensor:
        """Real images of a class; in a group, and with modes, some of them more than once."""
        size = math.ceil(self.options.batch_real / classes)
        indices = self.task.sampler.of_class(label, size, draws)
        if self.modes is None and classes == 1:
            return indices
        modes = torch.zeros_like(indices) if self.modes is None else self.modes[indices]
        return alike(indices, modes, size if classes > 1 else len(indices))


class ClassMatcher(BatchMatcher, ABC):
    """The easy interface: the loss of one class; the classes' losses are added up."""

    @abstractmethod
    def class_loss(self, network: Network, real: Tensor, synthetic: Tensor) -> Tensor:
        """A scalar for one class; images ``[n, C, H, W]`` and ``[ipc, C, H, W]``.

        With the option ``groups`` also for the images of all classes of a group, each class with its ``ipc``.
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
    """
    with torch.no_grad():
        return torch.cat([network.embed(part).float() for part in images.split(chunk)])


def class_means(features: Tensor, counts: Tensor) -> Tensor:
    """Means ``[classes, D]`` of features ``[n, D]`` that are sorted by class, in float32."""
    counts = counts.to(features.device)
    labels = torch.repeat_interleave(torch.arange(len(counts), device=features.device), counts)
    member = torch.nn.functional.one_hot(labels, len(counts)).to(features.dtype)  # [n, classes]
    return (member.T @ features) / counts[:, None]


def modes_of(task: Distillation, modes: int) -> Tensor | None:
    """The mode of each training image within its class, int64 ``[N]``: the nearest of its k-means centres.

    A class with fewer different images than modes has one for each of them.  None for a single mode.
    """
    if modes == 1:
        return None
    labels = task.data.train_labels.cpu()
    found = torch.zeros(len(labels), dtype=torch.int64)
    for label in range(task.data.classes):
        features = task.features(label).double()
        centres = class_centres(features, modes, task.seed)
        found[labels == label] = torch.cdist(features, centres).argmin(1)
    return found


def groups_of(task: Distillation, groups: int) -> list[list[int]]:
    """The classes of each group: the partition of two-stage classification (Zheng et al., ICMSSP 2024)."""
    features = [task.features(label) for label in range(task.data.classes)]
    labels = torch.repeat_interleave(torch.arange(len(features)), torch.tensor([len(own) for own in features]))
    distances = class_distances(torch.cat(features), labels, len(features), seed=task.seed)
    member = max_cut(distances, groups, task.seed)
    return [torch.nonzero(member == group).flatten().tolist() for group in range(int(member.max()) + 1)]


def alike(indices: Tensor, modes: Tensor, size: int) -> Tensor:
    """``size`` of some indices, with repeats, of which each mode has the same part, but for a rest.

    Args:
        indices: int64 ``[n]``, in random order.
        modes: int64 ``[n]``, of each of them.
        size: how many.
    """
    present = modes.unique().tolist()
    chosen = []
    for place, mode in enumerate(present):
        own = indices[modes == mode]
        part = size // len(present) + (place < size % len(present))
        chosen.append(own[torch.arange(part) % len(own)])
    return torch.cat(chosen)


def _joined(images: list[Tensor], labels: list[Tensor]) -> Batch:
    counts = torch.tensor([len(part) for part in images])
    return Batch(torch.cat(images), torch.cat(labels).to(images[0].device), counts)
