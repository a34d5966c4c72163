"""What each stage says of an image, and how the two are combined.

A classifier of the classes, q(c | x), says two things under a partition: the group, log q(g) = log sum_{c in g} q(c),
and the class within the group, log q(c | g) = log q(c) - log q(g(c)).  A classifier of the groups says the first only,
one of the classes within each group the second only.

With q from stage 1 and r from stage 2 the answer is

    log P(c) = a log q(g) + (1 - a) log r(g) + b log q(c | g) + (1 - b) log r(c | g) - log Z,        g = g(c).

(a, b) = (1, 0) is two-stage classification with soft routing, (0, 0) stage 2 alone, and (1, 1) stage 1 alone.  a = b is
a product of experts (Hinton 2002; BalPoE, Aimar et al., CVPR 2023, averages logits), which the partition does not
change.

The partition is plain numbers once a classifier is made: :func:`ltdd_core.export` writes it down as a graph, in which
nothing may depend on what a tensor holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core import Classifier, Storable

Parts = tuple[Tensor | None, Tensor | None]
"""``(log p(g) [n, K], log p(c | g(c)) [n, classes])``; None where a stage says nothing."""


class Stage(Storable, ABC):
    """What one stage says."""

    @abstractmethod
    def parts(self, images: Tensor) -> Parts:
        """Of images ``[n, C, H, W]``, normalised."""


class OfGroups(Stage):
    """A classifier of the K groups."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def parts(self, images: Tensor) -> Parts:
        """The group only."""
        return self.classifier.log_probabilities(images), None


class OfClasses(Stage):
    """A classifier of all classes.

    Args:
        groups: int64 ``[classes]``.
    """

    def __init__(self, classifier: Classifier, groups: Tensor) -> None:
        super().__init__()
        self.classifier, self.groups = classifier, groups.tolist()

    def parts(self, images: Tensor) -> Parts:
        """The sum over each group, and the class within its group."""
        return split(self.classifier.log_probabilities(images), self.groups)


class WithinGroups(Stage):
    """A classifier for each group; None for a group of one class.

    Args:
        classifiers: of the classes of each group, in their order.
        groups: int64 ``[classes]``.
    """

    def __init__(self, classifiers: Sequence[Classifier | None], groups: Tensor) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers)  # type: ignore[arg-type] # some are None
        by_group = [label for members in members_of(groups.tolist()) for label in members]
        self.columns = [by_group.index(label) for label in range(len(groups))]

    def parts(self, images: Tensor) -> Parts:
        """The class within the group only."""
        certain = images.new_zeros(images.shape[0], 1, dtype=torch.float32)
        parts = [certain if classifier is None else classifier(images) for classifier in self.classifiers]
        return None, torch.cat(parts, 1)[:, self.columns]


def members_of(groups: Sequence[int]) -> list[list[int]]:
    """The classes of each group, ascending.

    Args:
        groups: of each class, from 0.
    """
    return [[label for label, of_label in enumerate(groups) if of_label == group] for group in range(max(groups) + 1)]


def split(log_p: Tensor, groups: list[int]) -> tuple[Tensor, Tensor]:
    """Log p(g) ``[n, K]`` and log p(c | g(c)) ``[n, classes]`` of log p(c) ``[n, classes]``."""
    sums = group_sums(log_p, groups)
    # A group with probability 0 gives -inf - -inf: nothing is known within it, and nothing there counts.
    return sums, (log_p - sums[:, groups]).nan_to_num(nan=0.0, neginf=-torch.inf)


def group_sums(log_p: Tensor, groups: list[int]) -> Tensor:
    """Log of the sums of probabilities over groups: ``[n, classes]`` to ``[n, K]``."""
    return torch.stack([log_p[:, members].logsumexp(1) for members in members_of(groups)], 1)


class TwoStage(Classifier):
    """Both stages, combined.

    Args:
        groups: int64 ``[classes]``.
        first: stage 1, q.
        second: stage 2, r.
        a: weight of stage 1 in the choice of the group, from 0 to 1.
        b: weight of stage 1 in the choice of the class within the group, from 0 to 1.
        hard: whether the likeliest group is taken as certain.
    """

    groups: Tensor

    def __init__(self, groups: Tensor, first: Stage, second: Stage, *, a: float, b: float, hard: bool) -> None:
        super().__init__()
        self.groups, self.group_of, self.first, self.second = groups, groups.tolist(), first, second
        self.a, self.b, self.hard = a, b, hard

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log P(c), float32 ``[n, classes]``; with hard routing -inf outside the likeliest group."""
        (q_group, q_within), (r_group, r_within) = self.first.parts(images), self.second.parts(images)
        group = pooled(self.a, q_group, r_group)
        if self.hard:
            likeliest = F.one_hot(group.argmax(1), group.shape[1]).bool()
            group = torch.where(likeliest, 0.0, -torch.inf)
        return (group[:, self.group_of] + pooled(self.b, q_within, r_within)).log_softmax(1)


def pooled(weight: float, first: Tensor | None, second: Tensor | None) -> Tensor:
    """Weight times the first plus 1 - weight times the second; one with weight 0 may be None.

    Raises:
        ValueError: one with a weight is None.
    """
    total: Tensor | float = 0.0
    for factor, log_p in ((weight, first), (1 - weight, second)):
        if factor:
            if log_p is None:
                raise ValueError("a stage that says nothing has a weight")
            total = total + factor * log_p
    if not isinstance(total, Tensor):
        raise ValueError("the weights add up to 0")
    return total
