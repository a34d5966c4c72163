"""The interface of distillation methods.

Images are float32 ``[n, C, H, W]`` in the normalised colours of their data set unless a line says otherwise; labels
are int64 ``[n]`` from 0 to ``classes - 1``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from ltdd_core.distillation.task import Distillation
from ltdd_core.evaluation.labeller import Labelling
from ltdd_core.networks.state import load_state_of, state_of
from ltdd_core.options import Component
from ltdd_core.training.sets import ViewLabels
from ltdd_core.training.soft_labels import SoftLabels


@dataclass(frozen=True)
class Synthetic:
    """What a method has made."""

    images: Tensor
    """As stored, float32 ``[n, C, h, w]``, on the task's device or on the CPU."""
    labels: Tensor
    """The class of each image, int64 ``[n]``."""
    soft_labels: SoftLabels | None = None
    """What a teacher says of each image, ``[n, classes]``, where there is one."""


@dataclass(frozen=True)
class Batch:
    """Images and their labels, sorted by class."""

    images: Tensor
    """float32 ``[n, C, H, W]``, normalised and augmented, on the device."""
    labels: Tensor
    """int64 ``[n]`` on the device."""
    counts: Tensor
    """Images of each class that is in the batch, int64 ``[classes]`` on the CPU."""

    def of_class(self, place: int) -> Tensor:
        """The images of a class, ``[counts[place], C, H, W]``.

        Args:
            place: of the class among those of the batch, from 0: its label where the batch has all classes.
        """
        return self.images[self._slice(place)]

    def labels_of(self, place: int) -> Tensor:
        """Their labels, int64 ``[counts[place]]``."""
        return self.labels[self._slice(place)]

    def _slice(self, place: int) -> slice:
        end = self._ends[place]
        return slice(end - int(self.counts[place]), end)

    @cached_property
    def _ends(self) -> list[int]:
        return self.counts.cumsum(0).tolist()


class Matcher(Component, ABC):
    """The full interface of a distillation method, which owns its parameters, optimisers and networks."""

    _kept: Mapping[str, Any] = MappingProxyType({})
    iterative: ClassVar[bool] = True
    """False: the images are what they are after :meth:`prepare`, and no step is taken."""
    take_first: ClassVar[str] = ""
    """Why this method is the one to begin with, a sentence after ``ltdd describe matcher``; empty of most methods."""
    quick_preset: ClassVar[str] = ""
    """The preset of this method with fewer and shorter trainings beforehand, for runs of some minutes; ``ltdd
    compare-methods`` takes it where the usual ones need more than half of the time.  Empty: there is none."""

    @abstractmethod
    def prepare(self, task: Distillation) -> None:
        """Set up the synthetic images and optimisers, as for step 0: the same each time for the same task."""

    @abstractmethod
    def step(self, step: int) -> Mapping[str, Tensor | float]:
        """Move the synthetic images once.

        Everything random must be a function of ``(task.seed, purpose, step)``: use
        :func:`ltdd_core.generator`, and draw nothing from a global generator.  The same steps come to the same
        pixels in every run of a process.  A class with one real image, and networks in bf16, are normal cases.

        Args:
            step: from 0 to ``iterations - 1``.

        Returns:
            Scalars to record, ``loss`` among them.  A loss that is not finite stops the run.
        """

    def images_per_step(self, counts: Sequence[int], ipc_of_class: Sequence[int]) -> int:
        """About how many images go forward and backward through a network of ``task.networks`` in a step.

        It decides whether compiling these networks pays, and 0 is for a method that uses none.  It is asked of a method
        that was not prepared.  Unless it is overridden, these are the synthetic images.

        Args:
            counts: training images of each class.
            ipc_of_class: synthetic images of each class.
        """
        return sum(ipc_of_class)

    def keep(self, **parts: Any) -> None:
        """Say what the next step depends on, once, in :meth:`prepare`; then a run can be saved and resumed.

        ``self.keep(images=self.images, optimizer=self.optimizer, networks=self.queue)``: tensors, modules, optimizers,
        and lists and mappings of those.  They are read at every checkpoint and filled in place when a run is resumed,
        so the same objects have to stay.  Who keeps something else implements :meth:`state` and :meth:`load_state`.

        Args:
            parts: by name.
        """
        self._kept = parts

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, as tensors, to be saved.  Not moved or copied by the core.

        Unless it is overridden, what :meth:`keep` was told.
        """
        return state_of(self._kept)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go back to what :meth:`state` returned, after :meth:`prepare`: the next step is the same, bit for bit."""
        load_state_of(self._kept, state)

    @abstractmethod
    def distilled(self) -> Synthetic:
        """The images and labels that the steps have come to.

        Every class has an image, and as many as ``task.ipc_of_class`` says; fewer only where real images are chosen and
        the class has no more.  Images that the run keeps are put back where the set is laid out as the initial images.
        """

    def decode(self, images: Tensor) -> Tensor:
        """What a network sees of stored images, where that is something else, such as the tiles of each.

        Distillation, evaluation and export call it; pictures show what is stored.  It depends on the options and the
        images alone: it is also called without :meth:`prepare`.

        Args:
            images: as stored, float32 ``[n, C, h, w]``.

        Returns:
            float32 ``[n, f, C, H, W]``: f images for each, all of its class.
        """
        return images[:, None]

    def is_decoded(self, shape: Sequence[int]) -> bool:
        """Whether :meth:`decode` does anything; unless this is overridden, whether ``decode`` is.

        Then no real image can be kept among the stored ones, and whoever uses these needs the method.

        Args:
            shape: ``(C, H, W)`` of the real images.
        """
        return type(self).decode is not Matcher.decode

    def teacher(self, task: Labelling) -> ViewLabels | None:
        """What gives the synthetic images their soft labels, so that controls can have the same; None: nothing does.

        ::

            def teacher(self, task):
                return task.trained(network=self.options.teacher, head="balanced-softmax").soft_labels

        It is asked of a method that was not prepared.

        Args:
            task: the synthetic images, and the way to teachers, which are those of ``task.trained`` in ``prepare``.

        Returns:
            ``images -> soft labels`` of normalised images ``[n, C, H, W]``.
        """
        return None

    def recipe(self) -> Mapping[str, Any]:
        """How networks should be trained on the images: options of :class:`ltdd_core.TrainingOptions`.

        ``{"lr": 0.013}`` for a learning rate that was learned with the images, or ``{"epochs": 300, "optimizer":
        "adamw", "lr": 1e-3, "cutmix": 1.0, "soft_loss": "mse", "hard_weight": 0.025}``.  They are stored with the set,
        and hold unless the user says otherwise.
        """
        return {}
