"""The interface of labellers, which give a distilled set soft labels, whatever made its images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ltdd_core.evaluation.teachers import TeacherTraining
from ltdd_core.options import BaseOptions, Component, option
from ltdd_core.training.soft_labels import SoftLabels
from ltdd_core.training.trainer import FindComponent


@dataclass(frozen=True)
class Labelling:
    """What a labeller works with."""

    images: Tensor
    """The synthetic images as a network sees them: float32 ``[n, C, H, W]``, normalised, on the device."""
    labels: Tensor
    """The class of each, int64 ``[n]``, on the device."""
    counts: tuple[int, ...]
    """Training images of each class of the long-tailed set."""
    trained: TeacherTraining
    """``trained(network="resnet18", head="balanced-softmax")``: teachers, trained now or found in the network store."""
    component: FindComponent
    """Finds another component by name."""
    seed: int
    """The seed of the run, for :func:`ltdd_core.generator`."""
    device: torch.device
    """The device of images and networks."""
    keep_going: Callable[[], None] = lambda: None
    """To be called between units of work of a ``prepare`` that takes long; raises :class:`Interrupted`."""


class Labeller(Component, ABC):
    """Says of images how much they are of each class."""

    class Options(BaseOptions):
        """What every labeller lets a user choose; a subclass adds its own."""

        per: Literal["image", "view"] = option(
            "image",
            "what gets a label: each synthetic image once (image), or each augmented and mixed view of one, by the "
            "teacher, while a network is trained (view)",
        )

    recipe: ClassVar[Mapping[str, Any]] = {}
    """How networks should be trained on the labels, as :meth:`ltdd_core.Matcher.recipe`; over what the method says."""

    @abstractmethod
    def prepare(self, task: Labelling) -> None:
        """Train or find what it takes to label; the same task prepares the same labeller.

        A run prepares one with an image of each class before its first step, to see that it works, and another one with
        the synthetic images.  Teachers from ``task.trained`` are trained for the first, and are there for the second.

        Args:
            task: the images, the class counts, and the way to teachers.

        Raises:
            InputError: the labeller does not suit the set.
        """

    @abstractmethod
    def label(self, images: Tensor) -> SoftLabels:
        """A soft label of each image; the same for the same image, without gradients.

        Args:
            images: normalised, float32 ``[n, C, H, W]``; the synthetic ones, or views of them.  Any number.
        """

    def teacher_bytes(self) -> int:
        """What storing the teachers takes, in bytes; labels of views need them, labels of images do not."""
        return 0
