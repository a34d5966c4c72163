"""The labels that each stage learns: groups, or the classes of one group."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import InputError, TrainingSet


def of_groups(data: TrainingSet, groups: Tensor, count: int) -> TrainingSet:
    """The same images with their groups as labels; soft labels are summed over a group.

    Args:
        data: hard or soft labels of classes.
        groups: the group of each class, int64 ``[classes]``.
        count: number of groups.
    """
    if data.labels.dim() == 1:
        return replace(data, labels=groups[data.labels], classes=count)
    return replace(data, labels=data.labels @ F.one_hot(groups, count).to(data.labels), classes=count)


def of_members(data: TrainingSet, members: Tensor) -> TrainingSet:
    """The images of some classes, labelled 0 .. len(members) - 1; soft labels are renormalised.

    Args:
        data: hard or soft labels of classes.
        members: the classes, int64, ascending.

    Raises:
        InputError: soft labels leave the classes without an image.
    """
    chosen = has_member(data, members)
    if data.labels.dim() == 1:
        labels = torch.searchsorted(members, data.labels[chosen])
    else:
        labels = data.labels[chosen][:, members]
        labels = labels / labels.sum(1, keepdim=True)
    return replace(data.only(chosen), labels=labels, classes=len(members))


def has_member(data: TrainingSet, members: Tensor) -> Tensor:
    """Which images are of some classes, bool ``[N]``.

    Args:
        data: hard or soft labels of classes; a soft label counts as its likeliest class.
        members: the classes, int64.

    Raises:
        InputError: none is.
    """
    chosen = torch.isin(data.hard_labels(), members)
    if not chosen.any():
        raise InputError(
            f"no image of the {data.name} set has one of the classes {members.tolist()} as its likeliest label: "
            "use --set head.within=classes."
        )
    return chosen
