"""What a plugin may implement: data sources, samplers, networks, matchers, classifier heads, recipes.

A component declares its options once, as a nested class ``Options``; they then appear in ``ltdd describe``,
in configuration files and as ``--set matcher.lr_img=1.0``.  Each interface below is either abstract or
finished: implement the abstract methods and nothing else.

Images are float32 ``[n, C, H, W]`` in the normalised colours of their data set unless a line says
otherwise; labels are int64 ``[n]`` from 0 to ``classes - 1``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ltdd_core.options import BaseOptions
from ltdd_core.progress import Display

if TYPE_CHECKING:
    from ltdd_core.augment import Augmentation
    from ltdd_core.data import ImageTable, LongTailedSet
    from ltdd_core.data.normalisation import Normalisation
    from ltdd_core.networks import NetworkPool
    from ltdd_core.training import Trainer


class Component:
    """What all components but networks share: they are made from their validated options."""

    Options: ClassVar[type[BaseOptions]] = BaseOptions

    def __init__(self, options: Any) -> None:
        self.options = options


# ---- data ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceImages:
    """All images of a source, before the cut to a long tail.

    Both tables give uint8 ``[n, C, H, W]`` of one size and int64 labels, and every class has an image in both.
    """

    train: ImageTable
    test: ImageTable
    class_names: tuple[str, ...]


class DataSource(Component, ABC):
    """Labelled images from somewhere; the core cuts the training part to a long tail.

    Its ``Options`` extend :class:`ltdd_core.LongTailOptions`, which say how.
    """

    suggested: ClassVar[Mapping[str, Any]] = {}
    """Configuration that suits this source, below presets: ``{"iterations": 300}``."""

    @abstractmethod
    def load(self, generator: torch.Generator) -> SourceImages:
        """Find the images, the same each time; what is random comes from ``generator`` alone.

        Decoding them can wait until the cut is made (:class:`ImageTable`).

        Raises:
            InputError: they are not where the options say, or cannot be used.
        """


# ---- samplers ------------------------------------------------------------------------------------


Features = Callable[[int], Tensor]
"""``features(label)``: float32 ``[n_c, D]`` on the CPU, of all training images of a class in the order of their
indices, not augmented, by the run's network trained as a plain classifier on the long-tailed set.  The first call
trains it, so what does not call it costs nothing."""


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

    @abstractmethod
    def epoch(self, progress: float, generator: torch.Generator) -> Tensor:
        """Indices ``[N]`` in the order in which one epoch of training sees them.

        ``progress`` goes from 0 in the first epoch to 1 in the last.
        """

    @abstractmethod
    def representatives(self, label: int, ipc: int, generator: torch.Generator, features: Features) -> Tensor:
        """Indices ``[min(ipc, n_c)]`` of images that stand for a class, none twice: a coreset, or initial images."""


# ---- networks ------------------------------------------------------------------------------------


class Network(nn.Module, ABC):
    """A feature extractor with a linear layer on top.

    A subclass is made as ``cls(image_shape, outputs, options)`` with ``image_shape = (C, H, W)`` and sets
    ``self.linear``.  It draws initial weights as ``torch.nn`` does; the core seeds that.  In evaluation mode nothing
    is random.
    """

    Options: ClassVar[type[BaseOptions]] = BaseOptions
    linear: nn.Linear

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` of n >= 1 images, with ``D = linear.in_features``; works under bf16 autocast too."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, outputs]``."""
        logits: Tensor = self.linear(self.embed(images))
        return logits


# ---- matchers ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distillation:
    """What a matcher works with."""

    data: LongTailedSet
    ipc: int
    draw_initial: Callable[[], tuple[Tensor, Tensor]]
    """Makes the initial images, which may train a network to choose them; see :attr:`initial_images`."""
    sampler: Sampler
    networks: NetworkPool
    augmentation: Augmentation
    seed: int
    device: torch.device
    chunk: int
    """How many real images to push through a network at once."""
    features: Features
    """Of the training images of a class, by a plain classifier of the long-tailed set; see :data:`Features`."""
    component: Callable[[str, str | Mapping[str, Any]], Any]
    """``component("sampler", "class-balanced")``, or with options, ``{"name": "effective-number", "beta": 0.99}``: an
    instance of another component.

    Raises:
        InputError: an unknown name or option.
    """
    display: Display = field(default_factory=Display)
    """Told what happens, for the eyes of a user: a ``prepare`` that takes long says so here."""
    keep_going: Callable[[], None] = lambda: None
    """To be called between units of work of a ``prepare`` that takes long; raises :class:`Interrupted`."""

    @cached_property
    def _initial(self) -> tuple[Tensor, Tensor]:
        return self.draw_initial()

    @property
    def initial_images(self) -> Tensor:
        """Float32 ``[classes * ipc, C, H, W]``, sorted by class, on the device; drawn when first asked for."""
        return self._initial[0]

    @property
    def initial_real(self) -> Tensor:
        """Bool ``[classes * ipc]``, on the device: which are real images as they are, and no repeats or noise."""
        return self._initial[1]

    @property
    def initial_labels(self) -> Tensor:
        """Int64 ``[classes * ipc]``, on the device."""
        return torch.arange(self.data.classes, device=self.device).repeat_interleave(self.ipc)


@dataclass(frozen=True)
class Batch:
    """Images and their labels on the device, sorted by class; ``counts``, int64 ``[classes]``, on the CPU.

    Where a matcher knows groups, a batch may be sorted by group, and ``counts`` is ``[groups]``.
    """

    images: Tensor
    labels: Tensor
    counts: Tensor

    def of_class(self, place: int) -> Tensor:
        """The images of one class, or group, ``[counts[place], C, H, W]``."""
        return self.images[self._slice(place)]

    def labels_of(self, place: int) -> Tensor:
        """Their labels, int64 ``[counts[place]]``."""
        return self.labels[self._slice(place)]

    def _slice(self, place: int) -> slice:
        start = int(self.counts[:place].sum())
        return slice(start, start + int(self.counts[place]))


Decoder = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Matcher(Component, ABC):
    """A distillation method in full: it owns its parameters, optimisers and networks."""

    decoder: ClassVar[Decoder | None] = None
    """``(stored images, labels) -> (images, labels)``, a static method, where what is stored is not what a
    network sees (several small images in one, say).  Used alike in distillation and in evaluation."""
    iterative: ClassVar[bool] = True
    """False: the images are what they are after :meth:`prepare`, and no step is taken."""

    @abstractmethod
    def prepare(self, task: Distillation) -> None:
        """Set up the synthetic images and optimisers, as for step 0: the same each time for the same task."""

    @abstractmethod
    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Move the synthetic images once.

        Everything random must be a function of ``(task.seed, purpose, step)``: use
        :func:`ltdd_core.generator`, and draw nothing from a global generator.  The same steps come to the same
        pixels in every run of a process.  A class with one real image, and networks in bf16, are normal cases.

        Returns:
            Scalars to record, ``loss`` among them.  A loss that is not finite stops the run.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors, to be saved.  Not moved or copied by the core."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` returned, after :meth:`prepare`: the next step is the same, bit for bit."""

    @abstractmethod
    def distilled(self) -> tuple[Tensor, Tensor]:
        """Stored images, float32 ``[n, C, H, W]``, and their labels, on the task's device or on the CPU.

        Labels are int64 ``[n]``, or float ``[n, classes]`` for soft ones.  Every class has an image.
        """

    def training(self) -> Mapping[str, float]:
        """Options for training on the images that the method learned with them: ``{"lr": 0.013}``."""
        return {}


# ---- classifiers ---------------------------------------------------------------------------------

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
    """int64 ``[N]``, or float32 ``[N, classes]``."""
    normalisation: Normalisation
    classes: int
    order: EpochOrder | None = None
    """Orders the epochs (a sampler's ``epoch``); None shuffles."""

    def batch(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Normalised images and labels on the device."""
        images = self.images[indices].to(device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = self.normalisation.apply(images)
        return images, self.labels[indices].to(device, non_blocking=True)

    def only(self, kept: Tensor) -> TrainingSet:
        """The images of a mask, bool ``[N]``; an order stays that of the whole set with the others left out."""
        order: EpochOrder | None = None
        if self.order is not None:
            whole, position = self.order, kept.cumsum(0) - 1

            def order(progress: float, draws: torch.Generator) -> Tensor:
                drawn = whole(progress, draws)
                return position[drawn[kept[drawn]]]

        return replace(self, images=self.images[kept], labels=self.labels[kept], order=order)

    def hard_labels(self) -> Tensor:
        """The class of each image, int64 ``[N]``; the likeliest one of a soft label."""
        return self.labels if self.labels.dim() == 1 else self.labels.argmax(1)

    def counts(self) -> Tensor:
        """Images of each class, float64 ``[classes]`` on the CPU; the sums of soft labels."""
        if self.labels.dim() == 1:
            return torch.bincount(self.labels.cpu(), minlength=self.classes).double()
        return self.labels.double().sum(0).cpu()

    def __len__(self) -> int:
        return len(self.labels)


class Classifier(ABC):
    """A trained classifier."""

    groups: Tensor | None = None
    """int64 ``[classes]``, the group of each class, when the classifier has a partition."""

    @abstractmethod
    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-probabilities, float32 ``[n, classes]`` on the images' device; -inf where a class is ruled out."""


class Softmax(Classifier):
    """The softmax of logits.

    Args:
        logits: ``images -> [n, classes]``: a network, or what a head makes of one.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        self.logits = logits

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-softmax, float32 ``[n, classes]``."""
        return self.logits(images).float().log_softmax(1)


class ClassifierHead(Component, ABC):
    """Turns training images into a classifier, in one stage or more."""

    title: ClassVar[str]
    """How a result table calls it."""
    stages: ClassVar[int] = 1

    @abstractmethod
    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train; ``sets[i]`` is what the recipe chose for stage i, ``len(sets) == self.stages``.

        The same sets and ``trainer.seed`` give the same classifier: use :func:`ltdd_core.generator`, and draw
        nothing from a global generator.

        Raises:
            InputError: the sets do not suit the head.
            RunFailed: training diverged.
        """


class Recipe(Component, ABC):
    """Which data train which stage of a classifier."""

    @abstractmethod
    def assign(self, stages: int) -> tuple[str, ...]:
        """``"original"`` or ``"distilled"`` for each stage.

        Raises:
            InputError: the recipe does not go with that many stages.
        """


@dataclass(frozen=True)
class DistilledSet:
    """The synthetic images with their labels, and how they were made."""

    images: Tensor
    """float32 ``[n, C, H, W]`` on the CPU, as stored (see ``decoder``)."""
    labels: Tensor
    """int64 ``[n]``, or float32 ``[n, classes]``."""
    class_names: tuple[str, ...]
    normalisation: Normalisation
    ipc: int
    training: Mapping[str, float] = field(default_factory=dict)
    """Training options that the method learned with the images, such as ``{"lr": 0.013}``; they stand in for
    the defaults of ``training.distilled``."""
    decoder: str | None = None
    """The matcher whose decoder turns stored images into network inputs; None: they are the same."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """Configuration, class counts and versions behind it."""
