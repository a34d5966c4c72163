"""Features matched in networks on their way through a training: what DANCE, TGDD and methods like them share.

Each step has two networks of the same training.  In the first, a method lowers a distance between the features of real
and of synthetic images.  In the second, later one, the synthetic images should be classified well,

    w sum_c mean_{s in S_c} CE(f(A(s)), c),

which calibrates the first: features whose means agree may still lie on the wrong side of a boundary.  Pixels are
colours from 0 to 1, and are kept there after every step, so that learning rates are those of the public codes.  Every
stored image holds ``factor^2`` tiles, each of which a network sees at full size (Kim et al., "Dataset Condensation via
Efficient Synthetic-Data Parameterization", ICML 2022).

The public codes move the images of one class after another; here those of all classes move at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    Batch,
    BatchMatcher,
    Distillation,
    Network,
    NetworkPool,
    Synthetic,
    class_means,
    generator,
    option,
    summed_over_processes,
)


class CalibratedMatcher(BatchMatcher, ABC):
    """Match features in partly trained networks, and be classified well by networks that are trained further."""

    usual_factor = 2
    together: ClassVar[bool] = False
    """Whether the sum of both gradients moves the pixels; else each of them does, one after the other."""

    class Options(BatchMatcher.Options):
        """Pixels, tiles and the cross-entropy; defaults of DANCE's public code."""

        lr_img: float = option(
            0.01,
            "learning rate of the pixels, for colours from 0 to 1 and one image of a class; n images have n times as "
            "much",
            source="DANCE, public code",
            gt=0,
        )
        batch_real: int = option(
            128,
            "number of real images per class in a step; all images of a class that has fewer",
            source="DANCE, public code",
            ge=1,
        )
        factor: int | None = option(
            None,
            "tiles beside and below each other in a stored image, each of which a network sees at full size",
            source="DANCE, public code: 2",
            ge=1,
            unless_given="2, or 1 where tiles would have fewer than 8x8 pixels",
        )
        calibration: float = option(
            1.0, "weight of the cross-entropy beside the matching; 0 leaves it out", source="DANCE, public code", ge=0
        )

    mover: torch.optim.Optimizer
    """Moves the pixels."""
    pool: NetworkPool
    """What holds the networks of a step; that of the run unless ``prepare_networks`` says otherwise."""
    pixels: Tensor
    """What is optimised: colours from 0 to 1, float32 ``[n, C, H, W]``; ``images`` are the same, normalised."""

    @abstractmethod
    def loss(self, network: Network, real: Batch, synthetic: Batch) -> Tensor:
        """The distance of some classes, a sum of what depends on one class each: a scalar.

        Args:
            network: of the step, whose parameters require no gradients.
            real: up to ``batch_real`` real images of these classes.
            synthetic: all their tiles under the augmentation of their real images.
        """

    @abstractmethod
    def prepare_networks(self, task: Distillation) -> None:
        """Train the networks, or find them in the network store."""

    @abstractmethod
    def weights(self, step: int) -> tuple[Tensor, Tensor]:
        """The parameters, float32 ``[P]`` each, of the network to match in and of the one that calibrates."""

    def prepare(self, task: Distillation) -> None:
        """Start from tiles of the initial images; train the networks, or find them.

        Raises:
            InputError: the tiles do not fit into an image, or the networks cannot be had.
            RunFailed: the training of a network diverged.
        """
        self.task, self.pool, self.labels = task, task.networks, task.initial_labels
        self._normalise = task.data.normalisation.layer().to(task.device)
        factor = self.factor_of(task.data.image_shape)
        tiles = task.initial_tiles(factor)
        self.pixels = task.data.normalisation.invert(tiles).requires_grad_(True)
        self.kept_pixels = self.pixels.detach()[task.kept]
        self.mover = self.make_optimizer()
        self.keep(pixels=self.pixels, optimizer=self.mover)
        self.prepare_networks(task)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Moves the pixels: SGD with a learning rate in proportion to the images of a class.

        The gradient of a mean over n images is an n-th of that of a single one.
        """
        numbers = torch.tensor(self.task.ipc_of_class, dtype=torch.float32, device=self.task.device)
        of_image = numbers[self.labels][:, None, None, None]
        self.pixels.register_hook(lambda gradient: gradient * of_image)
        return torch.optim.SGD([self.pixels], lr=self.options.lr_img, momentum=self.options.momentum)

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """The real images that are drawn, and the tiles, in both networks."""
        tiles = self.tiles_of_image * sum(ipc_of_class)
        passes = 2 if self.options.calibration else 1
        return sum(min(count, self.options.batch_real) for count in counts) + passes * tiles

    def matched_together(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> Sequence[Sequence[int]]:
        """Classes that have together as many tiles as go through a network at once, or one that has more."""
        tiles = self.factor_of(self.task.data.image_shape) ** 2
        return grouped([tiles * number for number in ipc_of_class], self.task.chunk)

    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Move the pixels by the matching, then, or at once, by the cross-entropy."""
        matching, calibrating = self.weights(step)
        early = self.pool.holding(matching, step)
        matched = self._descended(lambda classes: self.loss(early, *self.batches(step, classes)))
        found = {"loss": matched, "matching": matched}
        if self.options.calibration:
            if not self.together:
                self._move()
            late = self.pool.holding(calibrating, step)  # in the memory of the other, which has done its work
            calibrated = self._descended(lambda classes: self._cross_entropy(late, step, classes))
            found |= {"loss": matched + calibrated, "calibration": calibrated}
        self._move()
        return found

    def distilled(self) -> Synthetic:
        """The pixels, normalised, and their classes."""
        with torch.no_grad():
            return Synthetic(self._normalise(self.pixels), self.labels)

    def _descended(self, loss: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """The sum of the losses of all classes; its gradient is added to that of the pixels.

        Some classes at a time go through the network, so that memory follows their tiles and not all of them.  The
        processes of a run share the classes.

        Args:
            loss: of some classes, which depends on their images alone.
        """
        shown = self._normalise(self.pixels)
        self.images = shown.detach().requires_grad_(True)
        gradient, total = torch.zeros_like(shown), shown.new_zeros(())
        self.images.grad = gradient
        for classes in self.own_groups():
            self.task.keep_going()
            part = loss(classes)
            part.backward()
            total += part.detach()
        summed_over_processes(gradient, total)
        shown.backward(gradient)
        return total

    def _move(self) -> None:
        self.mover.step()
        self.mover.zero_grad()
        with torch.no_grad():
            self.pixels.clamp_(0, 1)
            self.pixels[self.task.kept] = self.kept_pixels  # weight decay and momentum move them without a gradient

    def _cross_entropy(self, network: Network, step: int, classes: Sequence[int]) -> Tensor:
        """The weighted mean of each class, summed, under an augmentation of its own for each class."""
        task, own, seen = self.task, self.images.split(self.task.ipc_of_class), []
        for label in classes:
            draws = generator(task.seed, "calibrating augmentation", step, label)
            transform = task.augmentation.draw(task.data.image_shape, draws)
            seen.append(transform(self.decode(own[label]).flatten(0, 1)))
        counts = torch.tensor([len(part) for part in seen])
        labels = torch.tensor(classes).repeat_interleave(counts).to(task.device)
        losses = F.cross_entropy(network(torch.cat(seen)), labels, reduction="none")
        return self.options.calibration * class_means(losses[:, None], counts).sum()


def grouped(sizes: Sequence[int], most: int) -> list[list[int]]:
    """The places of some sizes in groups whose sums are at most ``most``, as long as a size is no larger itself."""
    groups: list[list[int]] = []
    total = 0
    for place, size in enumerate(sizes):
        if not groups or total + size > most:
            groups.append([])
            total = 0
        groups[-1].append(place)
        total += size
    return groups
