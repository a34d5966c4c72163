"""The labels that each stage learns: groups, or the classes of one group."""

from __future__ import annotations

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
    soft = data.soft_labels
    if soft is not None:
        probabilities = soft.probabilities()
        soft = SoftLabels(probabilities @ F.one_hot(groups, count).to(probabilities))
    return replace(data, labels=groups[data.labels], soft_labels=soft, classes=count)


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
    soft = part.soft_labels
    if soft is not None:
        soft = SoftLabels(soft.logits()[:, members].softmax(1))
    labels = torch.searchsorted(members, part.labels)
    return replace(part, labels=labels, soft_labels=soft, classes=len(members))


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
