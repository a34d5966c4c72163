"""The exponential long-tailed profile of the field, and the cut of a balanced set to it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ltdd_core.data.image_groups import whole_groups
from ltdd_core.data.source import Order
from ltdd_core.errors import InputError, how_to_set


def exponential_counts(classes: int, n_max: int, imbalance: float) -> list[int]:
    """Images a class keeps, head first: ``int(n_max * IF ** (-i / (C - 1)))``, at least 1.

    Source: Cui et al., CVPR 2019; CIFAR-10-LT with IF 100 and n_max 5000 has 12,406 images.
    """
    if classes == 1:
        return [n_max]
    # The small term keeps an exact power (1000 / 100 = 10) from rounding down to 9.
    return [max(1, int(n_max * imbalance ** (-i / (classes - 1)) + 1e-9)) for i in range(classes)]


def class_order(classes: int, order: Order, generator: torch.Generator) -> list[int]:
    """The classes from head to tail."""
    if order == "reversed":
        return list(range(classes))[::-1]
    if order == "random":
        return torch.randperm(classes, generator=generator).tolist()
    return list(range(classes))


def cut(
    labels: Tensor,
    class_names: Sequence[str],
    *,
    imbalance: float | Literal["natural"],
    n_max: int | None,
    order: Order,
    generator: torch.Generator,
) -> Tensor:
    """Indices of the images that stay, sorted by class.

    Args:
        labels: int64 ``[N]`` of all training images.
        class_names: a name for each class, for messages.
        imbalance: the imbalance factor n_max / n_min, or ``natural`` to keep every image.
        n_max: images of the largest class; None: as many as the smallest class of the data source has, so
            that the profile is exact.
        order: which class is the head.

    Raises:
        InputError: a class has too few images for its place in the profile.
    """
    classes = len(class_names)
    members = [torch.nonzero(labels == label).flatten() for label in range(classes)]
    if imbalance == "natural":
        return torch.cat([_draw(indices, n_max or len(indices), generator) for indices in members])
    counts = exponential_counts(classes, n_max or min(len(indices) for indices in members), imbalance)
    kept: list[Tensor] = [torch.empty(0, dtype=torch.long)] * classes
    for count, label in zip(counts, class_order(classes, order, generator), strict=True):
        if count > len(members[label]):
            raise InputError(
                f"class {class_names[label]!r} has {len(members[label])} training images but its place in the "
                f"profile asks for {count}: use a smaller {how_to_set('data.n_max')}, another "
                f"{how_to_set('data.order')}, or {how_to_set('data.imbalance', 'natural')}."
            )
        kept[label] = _draw(members[label], count, generator)
    return torch.cat(kept)


def balanced_part(
    labels: Tensor, classes: int, share: float, generator: torch.Generator, groups: Tensor | None = None
) -> Tensor:
    """Which images become validation images, bool ``[N]``: as many of each class as of any other.

    A class gives at most half of its images, so one with a single image gives none.  The number of each class is the
    one with the total nearest to ``share * N``, and at least 1; of two that are as near, the smaller.

    Args:
        labels: int64 ``[N]`` of the long-tailed training images.
        classes: how many classes there are.
        share: of all images, above 0.
        generator: draws the images; those of a smaller share are among those of a larger one.
        groups: the number of the group of each image, int64 ``[N]``, which are taken as a whole; a class may give more
            images then, and gives none where they are all in one group.
    """
    most = torch.bincount(labels, minlength=classes) // 2

    def total(each: int) -> int:
        return int(most.clamp(max=each).sum())

    numbers, wanted = range(int(most.max()) + 1), share * len(labels)
    reached = bisect_left(numbers, wanted, key=total)
    near = numbers[max(1, reached - 1) : reached + 1]  # none where no class can give an image
    each = min(near, key=lambda number: abs(total(number) - wanted), default=0)
    return _of_each(labels, classes, each, generator, groups)


ONE_IN, ENOUGH_TO_CALIBRATE = 10, 20
"""Of how many images of the smallest class each class gives one unasked; and the least that these are in all."""


def spared_part(labels: Tensor, classes: int, generator: torch.Generator, groups: Tensor | None = None) -> Tensor:
    """Which images become validation images where nobody has said how many, bool ``[N]``.

    Every class gives as many as a tenth of the smallest, or none does where that makes fewer than 20 images.  A part
    without the rare classes would be no help: a temperature that is fitted to frequent classes alone makes a classifier
    of long-tailed data surer than it was.

    Args:
        labels: int64 ``[N]`` of the long-tailed training images.
        classes: how many classes there are.
        generator: draws the images, as of :func:`balanced_part`.
        groups: as of :func:`balanced_part`; where a class can give no whole group, none does.
    """
    each = int(torch.bincount(labels, minlength=classes).min()) // ONE_IN
    chosen = _of_each(labels, classes, each if each * classes >= ENOUGH_TO_CALIBRATE else 0, generator, groups)
    return chosen if len(labels[chosen].unique()) == classes else torch.zeros_like(chosen)


def _of_each(labels: Tensor, classes: int, each: int, generator: torch.Generator, groups: Tensor | None) -> Tensor:
    """As many images of each class, but at most half of one, bool ``[N]``; whole groups where there are some."""
    if groups is not None:
        counts = torch.bincount(labels, minlength=classes).tolist()
        return whole_groups(labels, [min(each, count // 2) for count in counts], groups, generator)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        indices = torch.nonzero(labels == label).flatten()
        chosen[_draw(indices, min(each, len(indices) // 2), generator)] = True
    return chosen


def _draw(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of them, or all, in their order; the draw of a smaller count is part of that of a larger one."""
    return indices[torch.randperm(len(indices), generator=generator)[:count]].sort().values


def by_count(counts: Sequence[int]) -> list[int]:
    """The classes from head to tail: by their training images, most first, and else in their order.

    Args:
        counts: training images of each class.
    """
    return sorted(range(len(counts)), key=lambda label: -counts[label])


def shot_groups(counts: Sequence[int]) -> dict[str, list[int]]:
    """Classes by training images: many (over 100), medium (20 to 100), few (under 20).

    Source: Liu et al., CVPR 2019 (OLTR).

    Args:
        counts: training images of each class.

    Returns:
        The classes of each group, in their order; none where no class has so many images.
    """
    return {
        "many": [label for label, count in enumerate(counts) if count > 100],
        "medium": [label for label, count in enumerate(counts) if 20 <= count <= 100],
        "few": [label for label, count in enumerate(counts) if count < 20],
    }
