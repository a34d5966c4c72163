"""The labels that each stage learns: groups, or the classes of one group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import InputError, SoftLabels, TrainingSet


def of_groups(data: TrainingSet, groups: Tensor, count: int) -> TrainingSet:
    """The same images with their groups as labels; soft labels are summed over a group.

    Args:
        data: the images with the classes, and perhaps soft labels.
        groups: the group of each class, int64 ``[classes]``.
        count: number of groups.
    """
    member = F.one_hot(groups, count)

    def summed(soft: SoftLabels) -> SoftLabels:
        probabilities = soft.probabilities()
        return SoftLabels(probabilities @ member.to(probabilities))

    return relabelled(data, groups[data.labels], count, summed)


def of_members(data: TrainingSet, members: Tensor) -> TrainingSet:
    """The images of some classes, labelled 0 .. len(members) - 1; soft labels are renormalised.

    A soft label with no probability for any of them is uniform.

    Args:
        data: the images with the classes, and perhaps soft labels.
        members: the classes, int64, ascending.

    Raises:
        InputError: no image is of the classes.
    """
    part = data.only(has_member(data, members))

    def among_members(soft: SoftLabels) -> SoftLabels:
        return SoftLabels(soft.logits()[:, members.to(soft.values.device)].softmax(1))

    return relabelled(part, torch.searchsorted(members, part.labels), len(members), among_members)


def relabelled(
    data: TrainingSet, labels: Tensor, classes: int, change: Callable[[SoftLabels], SoftLabels]
) -> TrainingSet:
    """The same images with other labels, those that a teacher gives to their views included.

    Args:
        data: the images.
        labels: the new class of each, int64 ``[N]``.
        classes: number of new classes.
        change: soft labels of the old classes -> soft labels of the new ones.
    """
    soft = None if data.soft_labels is None else change(data.soft_labels)
    if data.view_labels is None:
        return replace(data, labels=labels, soft_labels=soft, classes=classes)
    given = data.view_labels

    def of_views(images: Tensor) -> SoftLabels:
        return change(given(images))

    return replace(data, labels=labels, soft_labels=soft, view_labels=of_views, classes=classes)


def has_member(data: TrainingSet, members: Tensor) -> Tensor:
    """Which images are of some classes, bool ``[N]``.

    Args:
        data: the images with the classes.
        members: the classes, int64.

    Raises:
        InputError: none is.
    """
    chosen = torch.isin(data.labels, members)
    if not chosen.any():
        raise InputError(
            f"the {data.name} set has no image of the classes {members.tolist()}: use --set head.within=classes."
        )
    return chosen
