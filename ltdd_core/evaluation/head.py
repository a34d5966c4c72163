"""The interfaces of classifiers: heads, which train them, and recipes, which say on what."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from ltdd_core.networks.stored import Storable
from ltdd_core.options import Component
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer


class Classifier(Storable, ABC):
    """A trained classifier: a module whose ``forward`` gives log-probabilities.

    A run keeps it by what it was made of, as :class:`ltdd_core.Storable` says.  What it works out itself and needs
    again is in its buffers.

    ``ltdd export`` makes a graph of it for any number of images.  So it does not branch on what a tensor holds, and
    asks for ``images.shape[0]``, not for ``len(images)``.
    """

    groups: Tensor | None = None
    """int64 ``[classes]``, the group of each class, when the classifier has a partition."""

    @abstractmethod
    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-probabilities, float32 ``[n, classes]`` on the images' device; -inf where a class is ruled out.

        Args:
            images: float32 ``[n, C, H, W]``, normalised.
        """

    def forward(self, images: Tensor) -> Tensor:
        """:meth:`log_probabilities`."""
        return self.log_probabilities(images)


class Softmax(Classifier):
    """The softmax of logits.

    Args:
        logits: ``images -> [n, classes]``: a network, or what a head makes of one.  A run can keep the classifier if
            it is a :class:`ltdd_core.Storable`, as every network is; it cannot keep a function.
    """

    def __init__(self, logits: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.logits = logits

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-softmax, float32 ``[n, classes]``."""
        return self.logits(images).float().log_softmax(1)


class ClassifierHead(Component, ABC):
    """Turns training images into a classifier, in one stage or more."""

    title: ClassVar[str]
    """Its name in a result table."""
    stages: ClassVar[int] = 1
    """How many training sets :meth:`fit` takes; the recipe chooses each."""
    opponent: ClassVar[str | None] = None
    """The head of one stage that a run's table also shows, trained on the original set: what a head of several stages
    has to beat.  None: the table shows no other than the plain head."""

    @abstractmethod
    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train a classifier.

        The same sets and ``trainer.seed`` give the same classifier: use :func:`ltdd_core.generator`, and draw
        nothing from a global generator.

        Args:
            sets: what the recipe chose for each stage; ``len(sets) == self.stages``.
            trainer: trains networks with the options of the run.

        Raises:
            InputError: the sets do not suit the head.
            RunFailed: training diverged.
        """


class Recipe(Component, ABC):
    """Which data train which stage of a classifier."""

    @abstractmethod
    def assign(self, stages: int) -> tuple[str, ...]:
        """``"original"`` or ``"distilled"`` for each stage.

        Args:
            stages: how many stages the head has, at least 1.

        Raises:
            InputError: the recipe does not go with that many stages.
        """
