"""The teachers of a method: how they are trained, and what all of them together say of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltdd_core import (
    Distillation,
    Labelling,
    Named,
    Network,
    SoftLabels,
    TeacherOptions,
    Teachers,
    TeacherTrainingOptions,
)

CONVNET: Named = {"name": "convnet-d3", "norm": "batch"}
"""The field's network, with the batch normalisations that statistics are those of."""
DEBIASED = "balanced-softmax"  # on classes of equal size it is the linear head
TEACHER = TeacherOptions(network=CONVNET, head=DEBIASED)
"""One teacher of it, trained as the run trains its classifiers of the long-tailed set."""


class Ensemble:
    """Teachers of one or several kinds of network; what they say is the mean of their logits.

    Args:
        kinds: the teachers of each kind.
    """

    def __init__(self, kinds: Sequence[Teachers]) -> None:
        self.kinds = tuple(kinds)

    @property
    def networks(self) -> tuple[Network, ...]:
        """The network of every teacher, kind by kind, in evaluation mode and frozen.

        Raises:
            ValueError: the classifier of the head is more than the softmax of one network.
        """
        return tuple(network for teachers in self.kinds for network in teachers.networks)

    def logits(self, images: Tensor) -> Tensor:
        """The mean of the log-probabilities of all teachers, float32 ``[n, classes]``, without gradients.

        Args:
            images: normalised, float32 ``[n, C, H, W]``, any number of them.
        """
        total = torch.stack([len(teachers) * teachers.logits(images) for teachers in self.kinds]).sum(0)
        return total / sum(map(len, self.kinds))

    def soft_labels(self, images: Tensor) -> SoftLabels:
        """:meth:`logits` as soft labels."""
        return SoftLabels(self.logits(images), "logits")


def trained(
    task: Distillation | Labelling, options: TeacherTrainingOptions, networks: Sequence[Named | None]
) -> Ensemble:
    """Teachers on the long-tailed set of a task, trained now or found in the network store.

    Args:
        task: of the method, or of labelling other images as the method does.
        options: how they are trained.
        networks: the kinds of network.

    Raises:
        InputError: an unknown name, or a head of several stages.
        RunFailed: training diverged.
    """
    return Ensemble(task.trained.of_kinds(options, networks))
