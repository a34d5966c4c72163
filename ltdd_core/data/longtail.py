"""The long-tailed profiles of the field, and the cut of a balanced set to one of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ltdd_core.data.image_groups import whole_groups
from ltdd_core.data.source import Order, Profile, Subset
from ltdd_core.errors import InputError, how_to_set


def exponential_counts(classes: int, n_max: int, imbalance: float) -> list[int]:
    """Images a class keeps, head first: ``int(n_max * IF ** (-i / (C - 1)))``, at least 1.

    Source: Cui et al., CVPR 2019; CIFAR-10-LT with IF 100 and n_max 5000 has 12,406 images.
    """
    if classes == 1:
        return [n_max]
    # The small term keeps an exact power (1000 / 100 = 10) from rounding down to 9.
    return [max(1, int(n_max * imbalance ** (-i / (classes - 1)) + 1e-9)) for i in range(classes)]


def step_counts(classes: int, n_max: int, imbalance: float) -> list[int]:
    """Images a class keeps, head first: half of the classes n_max, the others ``int(n_max / IF)``, at least 1.

    Of an odd number of classes the one in the middle is among the others.

    Source: Cao et al., NeurIPS 2019 (LDAM), after Buda et al., 2018.
    """
    few = max(1, int(n_max / imbalance + 1e-9))
    return [n_max if label < classes // 2 or classes == 1 else few for label in range(classes)]


COUNTS = {"exp": exponential_counts, "step": step_counts}


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
    profile: Profile,
    subset: Subset,
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
        profile: how the class counts fall.
        subset: whose draw of the images of a class it is; ``ldam`` and ``lad`` draw from the order of the labels.
        generator: draws the order where that is random, and the images where the subset is our own.

    Raises:
        InputError: a class has too few images for its place in the profile.
    """
    classes = len(class_names)
    members = members_of(labels, classes)
    if imbalance == "natural":
        head_first, counts = list(range(classes)), [n_max or len(indices) for indices in members]
    else:
        head_first = class_order(classes, order, generator)
        counts = COUNTS[profile](classes, n_max or min(len(indices) for indices in members), imbalance)
        for count, label in zip(counts, head_first, strict=True):
            if count > len(members[label]):
                raise InputError(
                    f"class {class_names[label]!r} has {len(members[label])} training images but its place in the "
                    f"profile asks for {count}: use a smaller {how_to_set('data.n_max')}, another "
                    f"{how_to_set('data.order')}, or {how_to_set('data.imbalance', 'natural')}."
                )
    shuffled = _shuffled(members, subset, head_first, generator)
    count_of = dict(zip(head_first, counts, strict=True))
    return torch.cat([shuffled[label][: count_of[label]].sort().values for label in range(classes)])


def members_of(labels: Tensor, classes: int) -> list[Tensor]:
    """The indices of each class, ascending, int64 ``[n_c]``; labels are int64 ``[N]``."""
    return list(labels.argsort(stable=True).split(torch.bincount(labels, minlength=classes).tolist()))


def _shuffled(
    members: Sequence[Tensor], subset: Subset, head_first: Sequence[int], generator: torch.Generator
) -> dict[int, Tensor]:
    """The images of each class in an order of which the first ones stay.

    NumPy promises that a ``RandomState`` draws the same for ever, so these subsets are those of the authors' code.  It
    is one of our own each time: theirs sets the seed of the whole program.
    """
    if subset == "own":
        return {label: members[label][_order(len(members[label]), generator)] for label in head_first}
    ldam, found = np.random.RandomState(0), {}
    for label, indices in enumerate(members):
        random = ldam if subset == "ldam" else np.random.RandomState(42)
        found[label] = indices[torch.from_numpy(random.permutation(len(indices)))]
    return found


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
    for indices in members_of(labels, classes):
        chosen[_draw(indices, min(each, len(indices) // 2), generator)] = True
    return chosen


def _draw(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of them, or all, in their order; the draw of a smaller count is part of that of a larger one."""
    return indices[_order(len(indices), generator)[:count]].sort().values


def _order(number: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(number, generator=generator)


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
