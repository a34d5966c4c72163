"""Labels and losses for stage 2: other classes as one extra class, a softmax within each group, two sets as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import SoftLabels, TrainingSet, cross_entropy, draw_by_class
from ltdd_twostage.labels import has_member, relabelled

OTHER_GROUP = -1e9  # a logit that no softmax notices, and finite: 0 x -inf would be NaN


def of_members_and_others(data: TrainingSet, members: Tensor) -> TrainingSet:
    """All images; those of all other classes become one extra class, the last (as in BAGS, Li et al., CVPR 2020).

    Args:
        data: the images with the classes, and perhaps soft labels.
        members: the classes, int64, ascending.

    Raises:
        InputError: no image is of the members.
    """
    has_member(data, members)
    count = len(members)
    labels = torch.where(
        torch.isin(data.labels, members), torch.searchsorted(members, data.labels).clamp(max=count - 1), count
    )

    def with_others(soft: SoftLabels) -> SoftLabels:
        among = soft.probabilities()[:, members.to(soft.values.device)]
        return SoftLabels(torch.cat([among, (1 - among.sum(1, keepdim=True)).clamp(min=0)], 1))

    return relabelled(data, labels, count + 1, with_others)


def within_groups(groups: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy over the classes of each image's group; soft labels are renormalised.

    Args:
        groups: the group of each class, int64 ``[classes]``.

    Returns:
        A loss of logits ``[n, classes]`` and of hard labels ``[n]`` or soft ones ``[n, classes]``.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        hard = labels if labels.dim() == 1 else labels.argmax(1)
        outside = groups[None, :] != groups[hard][:, None]
        if labels.dim() == 2:
            labels = labels.masked_fill(outside, 0)
            labels = labels / labels.sum(1, keepdim=True)
        return cross_entropy(logits.masked_fill(outside, OTHER_GROUP), labels)

    return loss


def both(first: TrainingSet, second: TrainingSet) -> TrainingSet:
    """Two sets as one: half of the draws of an epoch are class-balanced draws from the first, half from the second.

    It is trained under the name of the first set, with its epochs and learning rate.

    Args:
        first: the images of one set.
        second: those of another, of the same classes.
    """
    sets = (first, second)
    images = [
        (data.normalisation.apply(data.images) if data.images.dtype == torch.uint8 else data.images).cpu()
        for data in sets
    ]
    soft = SoftLabels(torch.cat([probabilities_of(data) for data in sets]))
    labels, uniform = [data.labels for data in sets], torch.ones(first.classes, dtype=torch.float64)

    def order(progress: float, draws: torch.Generator) -> Tensor:
        balanced = draw_by_class(labels[0], uniform, draws)
        from_first = len(balanced) // 2
        from_second = torch.randint(len(labels[1]), (len(balanced) - from_first,), generator=draws) + len(balanced)
        mixed = torch.cat([balanced[:from_first], from_second])
        return mixed[torch.randperm(len(mixed), generator=draws)]

    return replace(first, images=torch.cat(images), labels=torch.cat(labels), soft_labels=soft, order=order)


def probabilities_of(data: TrainingSet) -> Tensor:
    """The soft labels of a set, or its classes as such, float ``[N, classes]``."""
    targets = data.targets()
    return targets if targets.dim() == 2 else F.one_hot(targets, data.classes).float()
