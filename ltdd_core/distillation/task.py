"""What a matcher works with, and how the setup of a run becomes that.

Images are float32 ``[n, C, H, W]`` in the normalised colours of their data set unless a line says otherwise; labels
are int64 ``[n]`` from 0 to ``classes - 1``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ltdd_core.data.sampler import Features, Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.drawing import MatchingDraws
from ltdd_core.distillation.initial import initial_images
from ltdd_core.distillation.tiles import tiled
from ltdd_core.distillation.trajectories import Trajectories
from ltdd_core.errors import InputError, how_to_set
from ltdd_core.evaluation.teachers import TeacherTraining, teacher_training
from ltdd_core.networks.network import MakeNetwork
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.networks.store import SHARED
from ltdd_core.networks.trajectory import Numbers
from ltdd_core.options import Named
from ltdd_core.progress import Display
from ltdd_core.setup import Setup
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import FindComponent, Trainer

SYNTHETIC_PIXELS = 2**20
"""Pixels of images whose features are kept for the gradient: 1,024 images of 32x32, which take 2 GB in a ConvNet of
width 128."""


@dataclass(frozen=True)
class Distillation:
    """What a matcher works with."""

    data: LongTailedSet
    """The long-tailed set: raw uint8 images, and the normalisation that turns them into network inputs."""
    ipc_of_class: tuple[int, ...]
    """Synthetic images of each class, at least 1: ``images.split(task.ipc_of_class)`` gives those of each class."""
    draw_initial: Callable[[int], tuple[Tensor, Tensor]]
    """``draw_initial(1)`` makes ``(initial_images, initial_real)``, ``draw_initial(n)`` n times as many of each class;
    it may train a network to choose them.  Use the properties, which call it once, and :meth:`initial_tiles`."""
    sampler: Sampler
    """Draws real images, as indices into ``data.train_images``."""
    networks: NetworkPool
    """Random networks to match with, and new ones."""
    augmentation: Augmentation
    """The differentiable augmentation of the run."""
    seed: int
    """The seed of the run, for :func:`ltdd_core.generator`."""
    device: torch.device
    """The device of images and networks."""
    chunk: int
    """Number of real images that go through a network at once."""
    features: Features
    """``features(label)``: features of the training images of a class, by a plain classifier that was trained on the
    long-tailed set.  The first call trains it."""
    component: FindComponent
    """Finds another component by name; see :data:`ltdd_core.training.trainer.FindComponent`."""
    trainer: Trainer
    """Trains networks as the run trains its classifiers, and keeps them."""
    original: Callable[[Named], TrainingSet]
    """``original("instance")``: the long-tailed set, ready to train on, its epochs in the order of a sampler."""
    trained: TeacherTraining
    """Trains networks on the long-tailed set beforehand, or finds them: ``task.trained(head="balanced-softmax")``; see
    :class:`ltdd_core.evaluation.teachers.TeacherTraining`."""
    pool: Callable[[Named], NetworkPool]
    """``pool("resnet18")``, or with options: random networks of another kind than ``networks``.

    Raises:
        InputError: an unknown name or option.
    """
    keep_real: bool = False
    """Whether a class with no more real images than were asked for keeps them: see ``kept``."""
    shared: Path = SHARED
    """The folder of the network store that all runs share."""
    display: Display = field(default_factory=Display)
    """Shows a user what happens; a ``prepare`` that takes long says so here."""
    keep_going: Callable[[], None] = lambda: None
    """To be called between units of work of a ``prepare`` or a ``step`` that takes longer than a second; raises
    :class:`Interrupted`.  A step that it ends is forgotten: the run goes on from the step before."""

    @property
    def chunk_with_gradient(self) -> int:
        """Number of synthetic images that go through a network at once where their features are kept for the gradient.

        At least ``chunk``, and as many as have 2^20 pixels.
        """
        _, height, width = self.data.image_shape
        return max(1, self.chunk, SYNTHETIC_PIXELS // (height * width))

    @property
    def ipc(self) -> int:
        """Synthetic images per class, for a method that makes the same number of each.

        Raises:
            InputError: the run asks for different numbers; a method that can make those uses ``ipc_of_class``.
        """
        least, most = min(self.ipc_of_class), max(self.ipc_of_class)
        if least < most:
            raise InputError(
                f"this method makes the same number of images of each class, and the run asks for {least} to {most}: "
                f"give {how_to_set('ipc')} one number, and leave out {how_to_set('init', 'keep')}."
            )
        return most

    @cached_property
    def _initial(self) -> tuple[Tensor, Tensor]:
        images, real = self.draw_initial(1)
        self.__dict__.setdefault("_kept_images", images[self.kept])  # a copy: a method may move the images in place
        return images, real

    @property
    def initial_images(self) -> Tensor:
        """Float32 ``[n, C, H, W]``, n the sum of ``ipc_of_class``, on the device, sorted by class.

        They are drawn when they are first asked for.
        """
        return self._initial[0]

    def forget_initial_images(self) -> None:
        """Free their memory, which a method that has a copy needs no more; they are drawn again if they are asked for.

        The core calls it after ``prepare``.
        """
        self.__dict__.pop("_initial", None)

    @property
    def initial_real(self) -> Tensor:
        """Bool ``[n]``, on the device: which are real images as they are, and no repeats or noise."""
        return self._initial[1]

    @cached_property
    def initial_labels(self) -> Tensor:
        """Int64 ``[n]``, on the device."""
        numbers = torch.tensor(self.ipc_of_class, device=self.device)
        return torch.arange(len(numbers), device=self.device).repeat_interleave(numbers)

    def initial_tiles(self, factor: int) -> Tensor:
        """Images to store, each made of ``factor * factor`` real images of its class, for a method that decodes them.

        They are chosen as the initial images are, ``factor * factor`` times as many, and repeated under augmentation
        where a class has too few.  Each is shrunk to a tile; tiles go from left to right and from top to bottom, the
        first ones a pixel larger where the side does not divide.  Of noise, the initial images.

        Args:
            factor: tiles beside and below each other, at least 1; with 1 they are the initial images.

        Returns:
            Float32 ``[n, C, H, W]`` as ``initial_images``, a new tensor.

        Raises:
            InputError: a tile would have no pixel.
        """
        _, height, width = self.data.image_shape
        if not 1 <= factor <= min(height, width):
            raise InputError(f"{factor} x {factor} tiles do not fit into images of {height}x{width} pixels.")
        images, real = self.draw_initial(factor**2)
        return tiled(images, factor) if real.any() else self.initial_images.clone()

    def draw_real(self, label: int, size: int, number: int) -> Tensor:
        """Real images of a class for a matching step, as the sampler chooses them: int64 ``[min(size, n_c)]``.

        They are indices into ``data.train_images``, none twice, a function of the seed, the number and the class.

        Args:
            label: the class.
            size: how many; all of a class that has fewer.
            number: of the step, or of the draw where a step has several.
        """
        return self._draws.of_class(label, size, number)

    @cached_property
    def _draws(self) -> MatchingDraws:
        return MatchingDraws(self.data, self.sampler, self.networks, self.seed, self.device, self.chunk)

    @cached_property
    def kept(self) -> Tensor:
        """Bool ``[n]``, on the device: which are real images that stay as they are, all those of a class.

        None unless the run has ``--init keep``.
        """
        numbers = zip(self.ipc_of_class, self.data.counts, strict=True)
        of_class = [self.keep_real and number == count for number, count in numbers]
        return torch.tensor(of_class, device=self.device)[self.initial_labels]

    @property
    def kept_images(self) -> Tensor:
        """Those of ``initial_images`` that are ``kept``, float32 ``[kept, C, H, W]``, whatever became of them."""
        if not self.keep_real:
            return torch.empty(0, *self.data.image_shape, device=self.device)  # without drawing any
        return self._kept_images

    @cached_property
    def _kept_images(self) -> Tensor:
        return self.initial_images[self.kept]

    def without_kept(self, gradient: Tensor) -> Tensor:
        """A gradient, or a step, of the images that leaves the kept ones where they are.

        ``self.images.register_hook(task.without_kept)`` in ``prepare`` does it for an optimizer without weight decay.

        Args:
            gradient: ``[n, ...]``, in the order of the initial images.
        """
        if not self.keep_real:
            return gradient
        return gradient.masked_fill(self.kept.view(-1, *[1] * (gradient.dim() - 1)), 0)

    def trajectories(
        self,
        name: str,
        *,
        training: TrainingOptions,
        head: Named = "linear",
        sampler: Named = "instance",
        numbers: Numbers = "fp32",
        make: Callable[[int], MakeNetwork] | None = None,
    ) -> Trajectories:
        """Networks trained on the long-tailed set whose parameters are kept after every epoch; not trained yet.

        ::

            experts = task.trajectories("expert", training=TrainingOptions(momentum=0, schedule="constant"))
            experts.train(2, report=lambda number, epochs: None, keep_going=task.keep_going)
            first, last = experts[1].rows(0, 300)  # float32 [P] each, in the order of network.parameters()

        They are kept in the network store that all runs share, under all that decides them, and found by the next run.
        With a constant learning rate, and an order of the images that is the same at every stage of the training, a
        later call with more epochs extends what is there.

        Args:
            name: what they are called; it decides their initial weights and random draws.
            training: how each is trained; by plain SGD, without momentum or average, since it resumes from the weights
                alone.
            head: whose loss trains them.
            sampler: orders the epochs.
            numbers: how parameters are kept: ``fp16`` and ``bf16`` take half the room.
            make: makes the network of a number, such as one that begins where another trajectory ended; the network of
                the run unless given.  What decides it is in the key.  Its parameters that do not require gradients stay
                as they are.

        Raises:
            OptionError: the head does not train one network, as it is, with one loss from beginning to end.
            ValueError: there is momentum, AdamW or an average.
        """
        data = self.original(sampler)
        trainer = self.trainer.changed(options={data.name: training})
        return Trajectories(self.shared, trainer, data, self.component("head", head), name, numbers, make)


def task_of(setup: Setup) -> Distillation:
    """What a matcher works with; networks and initial images are made when it asks for them.

    Raises:
        InputError: the data cannot be loaded, the numbers of images per class do not fit them, or the method stores
            images in which no real one can be kept.
    """
    method = setup.config.matcher
    if setup.keep_real and method.make().is_decoded(setup.data.image_shape):
        raise InputError(
            f"method {method.name!r} stores images that are decoded, so it cannot keep real ones: leave "
            f"out {how_to_set('init', 'keep')}."
        )

    def draw_initial(times: int) -> tuple[Tensor, Tensor]:
        images, real = initial_images(setup, times)
        return images.to(setup.device), real.to(setup.device)

    def original(sampler: Named) -> TrainingSet:
        data = setup.original_in_order_of(setup.prepared(setup.component("sampler", sampler)))
        return replace(data, labels=data.labels.to(setup.device))

    shared = setup.config.compute.store or SHARED
    return Distillation(
        data=setup.placed,
        ipc_of_class=setup.ipc_of_class,
        draw_initial=draw_initial,
        sampler=setup.sampler,
        networks=setup.networks,
        augmentation=setup.augmentation,
        seed=setup.config.run.seed,
        device=setup.device,
        chunk=setup.chunk,
        features=setup.features,
        component=setup.component,
        trainer=setup.trainer().changed(ledger=setup.beforehand),
        original=original,
        trained=teacher_training(setup),
        pool=lambda named: setup.pool_of(setup.network_of(named)),
        keep_real=setup.keep_real,
        shared=shared,
        display=setup.display,
        keep_going=setup.keep_going,
    )
