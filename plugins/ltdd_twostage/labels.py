"""The labels that each stage learns: groups, the classes of a group, and what a teacher says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    InputError,
    Softmax,
    Trainer,
    TrainingSet,
    cross_entropy,
    draw_by_class,
    option,
)

OTHER_GROUP = -1e9  # a logit that no softmax notices, and finite: 0 x -inf would be NaN


def of_groups(data: TrainingSet, groups: Tensor, count: int) -> TrainingSet:
    """The same images with their groups as labels; soft labels are summed over a group."""
    if data.labels.dim() == 1:
        return replace(data, labels=groups[data.labels], classes=count)
    return replace(data, labels=data.labels @ F.one_hot(groups, count).to(data.labels), classes=count)


def of_members(data: TrainingSet, members: Tensor) -> TrainingSet:
    """The images of some classes, labelled 0 .. len(members) - 1; soft labels are renormalised.

    Raises:
        InputError: soft labels leave the classes without an image.
    """
    kept = _of_classes(data, members)
    if data.labels.dim() == 1:
        labels = torch.searchsorted(members, data.labels[kept])
    else:
        labels = data.labels[kept][:, members]
        labels = labels / labels.sum(1, keepdim=True)
    return replace(data.only(kept), labels=labels, classes=len(members))


def of_members_and_others(data: TrainingSet, members: Tensor) -> TrainingSet:
    """All images; those of other classes are one class more, the last (as BAGS, Li et al., CVPR 2020)."""
    _of_classes(data, members)
    count = len(members)
    if data.labels.dim() == 1:
        labels = torch.where(
            torch.isin(data.labels, members), torch.searchsorted(members, data.labels).clamp(max=count - 1), count
        )
    else:
        own = data.labels[:, members]
        labels = torch.cat([own, (data.labels.sum(1) - own.sum(1))[:, None].clamp(min=0)], 1)
    return replace(data, labels=labels, classes=count + 1)


def _of_classes(data: TrainingSet, members: Tensor) -> Tensor:
    """Which images are of some classes, bool ``[N]``."""
    kept = torch.isin(data.hard_labels(), members)
    if not kept.any():
        raise InputError(
            f"no image of the {data.name} set has one of the classes {members.tolist()} as its likeliest label: "
            "use --set head.within=shared."
        )
    return kept


def within_groups(groups: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy over the classes of each image's own group; soft labels are renormalised."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        hard = labels if labels.dim() == 1 else labels.argmax(1)
        other = groups[None, :] != groups[hard][:, None]
        if labels.dim() == 2:
            labels = labels.masked_fill(other, 0)
            labels = labels / labels.sum(1, keepdim=True)
        return cross_entropy(logits.masked_fill(other, OTHER_GROUP), labels)

    return loss


class TaughtHead(ClassifierHead):
    """A linear head that learns from labels and from a teacher (Hinton et al. 2015).

    The labels of its set are ``[n, 2 classes]``: probabilities, then the teacher's log-probabilities; see
    :func:`taught`.
    """

    title = "taught"

    class Options(BaseOptions):
        """The teacher's part."""

        weight: float = option(0.5, "of the teacher's part of the loss", ge=0, le=1)
        temperature: float = option(3.0, "T of both softmaxes", gt=0)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        loss = taught_loss(self.options.weight, self.options.temperature)
        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="classes, taught", loss=loss))


def taught_loss(weight: float, temperature: float) -> Callable[[Tensor, Tensor], Tensor]:
    """(1 - l) CE(y, z) + l T^2 KL(softmax(t / T) || softmax(z / T)), labels ``[n, 2 C]`` as y and t side by side."""

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
        data: hard or soft labels.
        teacher: log-probabilities ``[N, classes]`` of its images, finite.
    """
    own = F.one_hot(data.labels, data.classes) if data.labels.dim() == 1 else data.labels
    return replace(data, labels=torch.cat([own.to(teacher), teacher], 1))


def taught_members(data: TrainingSet, teacher: Tensor, members: Tensor) -> TrainingSet:
    """As :func:`of_members`; the teacher's softmax is over the same classes."""
    kept = _of_classes(data, members)
    return taught(of_members(data, members), teacher[kept][:, members].log_softmax(1))


def both(real: TrainingSet, own: TrainingSet) -> TrainingSet:
    """Two sets of hard or soft labels as one: half of each epoch's draws from either, every class as often as another.

    It is trained under the name of the first set, with its epochs and learning rate.
    """
    images = [
        data.normalisation.apply(data.images) if data.images.dtype == torch.uint8 else data.images
        for data in (real, own)
    ]
    labels = [
        F.one_hot(data.labels, data.classes).float() if data.labels.dim() == 1 else data.labels for data in (real, own)
    ]
    hard, uniform = [data.hard_labels() for data in (real, own)], torch.ones(real.classes, dtype=torch.float64)

    def order(progress: float, draws: torch.Generator) -> Tensor:
        first = draw_by_class(hard[0], uniform, draws)
        size = len(first) // 2
        second = torch.randint(len(hard[1]), (len(first) - size,), generator=draws) + len(first)
        mixed = torch.cat([first[:size], second])
        return mixed[torch.randperm(len(mixed), generator=draws)]

    return replace(real, images=torch.cat(images), labels=torch.cat(labels), order=order)
