"""A stage 2 that stage 1 teaches (knowledge distillation, Hinton et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_ablations.labels import probabilities_of
from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    SoftLabels,
    Softmax,
    Trainer,
    TrainingSet,
    cross_entropy,
    option,
)
from ltdd_twostage.labels import has_member, of_members


class TaughtHead(ClassifierHead):
    """A linear head that learns from labels and from a teacher (Hinton et al. 2015).

    The soft labels of its set are ``[n, 2 classes]``: probabilities, then the teacher's log-probabilities; see
    :func:`taught`.
    """

    title = "taught"

    class Options(BaseOptions):
        """The influence of the teacher."""

        weight: float = option(0.5, "weight of the teacher in the loss", ge=0, le=1)
        temperature: float = option(3.0, "temperature T of teacher and student", gt=0)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        loss = taught_loss(self.options.weight, self.options.temperature)
        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="classes, taught", loss=loss))


def taught_loss(weight: float, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """(1 - l) CE(y, z) + l T^2 KL(softmax(t / T) || softmax(z / T)), labels ``[n, 2 C]`` as y and t side by side.

    Args:
        weight: l, from 0 to 1.
        temperature: T, above 0.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        hard, teacher = labels.chunk(2, 1)
        log_t = (teacher / temperature).log_softmax(1)
        log_z = (logits / temperature).log_softmax(1)
        distance = F.kl_div(log_z, log_t, reduction="batchmean", log_target=True)
        return (1 - weight) * cross_entropy(logits, hard) + weight * temperature**2 * distance

    return loss


def taught(data: TrainingSet, teacher: Tensor) -> TrainingSet:
    """A set for :class:`TaughtHead`.

    Args:
        data: the images with the classes, and perhaps soft labels.
        teacher: log-probabilities ``[N, classes]`` of its images, finite.
    """
    both = SoftLabels(torch.cat([probabilities_of(data).to(teacher), teacher], 1))
    return replace(data, soft_labels=both, view_labels=None)


def taught_members(data: TrainingSet, teacher: Tensor, members: Tensor) -> TrainingSet:
    """As :func:`ltdd_twostage.labels.of_members`, for :class:`TaughtHead`.

    Args:
        data: the images with the classes, and perhaps soft labels.
        teacher: log-probabilities ``[N, classes]`` of its images, finite; renormalised over the members.
        members: the classes, int64, ascending.

    Raises:
        InputError: no image is of the members.
    """
    chosen = has_member(data, members)
    return taught(of_members(data, members), teacher[chosen][:, members].log_softmax(1))
