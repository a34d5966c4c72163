"""The teachers of a method: how they are trained, and what all of them together say of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ltdd_core import BaseOptions, Distillation, Labelling, Named, Network, SoftLabels, Teachers, option

OF_THE_RUN = "; unless given, as in training.original"
CONVNET: Named = {"name": "convnet-d3", "norm": "batch"}
"""The field's network, with the batch normalisations that statistics are those of."""


class TeacherTrainingOptions(BaseOptions):
    """How teachers are trained; what is not given is as for the run's classifiers of the long-tailed set."""

    head: Named = option(
        "balanced-softmax",
        "classifier head that trains the teachers; on classes of equal size it is the linear one",
        component="head",
    )
    sampler: Named | None = option(
        None, "sampler that orders the epochs of the teachers; unless given, that of the run", component="sampler"
    )
    count: int = option(1, "number of teachers of each kind of network, which differ in their seeds", ge=1)
    epochs: int | None = option(None, f"number of epochs{OF_THE_RUN}", ge=1)
    optimizer: Literal["sgd", "adamw"] | None = option(None, f"optimizer of the weights{OF_THE_RUN}")
    lr: float | None = option(None, f"initial learning rate{OF_THE_RUN}", gt=0)
    momentum: float | None = option(None, f"momentum of SGD, or the first beta of AdamW{OF_THE_RUN}", ge=0, lt=1)
    weight_decay: float | None = option(None, f"weight decay{OF_THE_RUN}", ge=0)
    batch: int | None = option(None, f"number of images per step{OF_THE_RUN}", ge=1)
    schedule: Literal["step", "cosine", "constant"] | None = option(None, f"course of the learning rate{OF_THE_RUN}")
    warmup: int | None = option(None, f"epochs in which the learning rate rises{OF_THE_RUN}", ge=0)
    augment: Named | None = option(None, f"augmentation of the training images{OF_THE_RUN}", component="augmentation")
    mixup: float | None = option(None, f"alpha of mixup{OF_THE_RUN}", ge=0)
    cutmix: float | None = option(None, f"alpha of CutMix{OF_THE_RUN}", ge=0)
    label_smoothing: float | None = option(
        None, f"share of the label that is spread over all classes{OF_THE_RUN}", ge=0, lt=1
    )
    average: float | None = option(None, f"decay of the moving average of the weights{OF_THE_RUN}", ge=0, lt=1)


class TeacherOptions(TeacherTrainingOptions):
    """Teachers of one kind of network."""

    network: Named = option(CONVNET, "kind of network of the teachers", component="network")


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


def trained(task: Distillation | Labelling, options: TeacherTrainingOptions, networks: Sequence[Named]) -> Ensemble:
    """Teachers on the long-tailed set of a task, trained now or found in the network store.

    Args:
        task: of the method, or of labelling other images as the method does.
        options: how they are trained.
        networks: the kinds of network.

    Raises:
        InputError: an unknown name, or a head of several stages.
        RunFailed: training diverged.
    """
    apart = {"network", "head", "sampler", "count"}
    training = {name: value for name, value in dict(options).items() if name not in apart and value is not None}
    return Ensemble(
        [
            task.trained(
                network=network,
                head=options.head,
                sampler=options.sampler,
                training=training,
                seeds=range(task.seed, task.seed + options.count),
            )
            for network in networks
        ]
    )
