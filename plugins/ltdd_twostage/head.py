"""Two-stage classification (Zheng et al., ICMSSP 2024): the group first, then the class within the group.

Stage 1 tells the groups of a partition apart, p(g | x).  Stage 2 tells the classes of a group apart, p(c | g, x): a
classifier for each group, or one network for all of them whose softmax runs within each group.  Which head trains a
stage is an option.  The paper routes *hard*, arg max_g p(g | x) and then arg max_c p(c | g, x), which loses every image
whose group is wrong; *soft* routing takes arg max_c p(g(c) | x) p(c | g(c), x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    InputError,
    Network,
    Softmax,
    Trainer,
    TrainingSet,
    cross_entropy,
    option,
)
from ltdd_twostage.partition import class_distances, max_cut

OTHER_GROUP = -1e9  # a logit that no softmax notices, and finite: 0 x -inf would be NaN


class TwoStage(Classifier):
    """A classifier of the groups and those within the groups.

    Args:
        groups: int64 ``[classes]``.
        by_group: of the K groups.
        within: one for each group, of its classes in their order; None for a group of one class.
        hard: route hard.
    """

    groups: Tensor

    def __init__(
        self,
        groups: Tensor,
        by_group: Classifier,
        within: Sequence[Classifier | None],
        *,
        hard: bool,
    ) -> None:
        self.groups, self.hard = groups, hard
        self._by_group, self._within = by_group, within

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log p(g) + log p(c | g) ``[n, classes]``; with hard routing -inf outside the likeliest group."""
        group = self._by_group.log_probabilities(images)  # [n, K]
        if self.hard:
            chosen = F.one_hot(group.argmax(1), group.shape[1]).bool()
            group = torch.where(chosen, 0.0, -torch.inf)
        result = images.new_empty(len(images), len(self.groups), dtype=torch.float32)
        for index, classifier in enumerate(self._within):
            members = (self.groups == index).to(images.device)
            own = classifier.log_probabilities(images) if classifier is not None else 0.0
            result[:, members] = group[:, index, None] + own
        return result


class TwoStageHead(ClassifierHead):
    """Group first, then class within the group."""

    title = "two-stage"
    stages = 2

    class Options(BaseOptions):
        """The partition and how the stages work together."""

        groups: int = option(2, "K, the number of groups", source="Zheng et al. 2024", ge=2)
        centres: int = option(5, "M, k-means centres a class", source="Zheng et al. 2024", ge=1)
        routing: Literal["soft", "hard"] = option("soft", "soft: p(group) p(class | group); hard: the paper's")
        within: Literal["separate", "shared"] = option(
            "separate",
            "stage 2: a network for each group, or one with a softmax in each",
            source="Zheng et al. 2024",
        )
        stage1: str = option("linear", "head that tells the groups apart", source="Zheng et al. 2024", component="head")
        stage2: str = option(
            "linear", "head that tells the classes of a group apart", source="Zheng et al. 2024", component="head"
        )

        @model_validator(mode="after")
        def _shared_is_linear(self) -> Self:
            if self.within == "shared" and self.stage2 != "linear":
                raise ValueError("within=shared is a network of its own and goes with stage2=linear only")
            return self

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Find the partition on stage 1's set, then train both stages."""
        first, second = sets
        heads = [self._head(stage, trainer) for stage in ("stage1", "stage2")]
        groups = self.partition(first, trainer)
        by_group = heads[0].fit([_relabelled(first, groups, int(groups.max()) + 1)], trainer.part("groups"))
        if self.options.within == "shared":
            within = _shared(second, groups, trainer)
        else:
            within = _separate(second, groups, heads[1], trainer)
        return TwoStage(groups, by_group, within, hard=self.options.routing == "hard")

    def partition(self, data: TrainingSet, trainer: Trainer) -> Tensor:
        """Groups that lie far apart in the features of a plain classifier of the same set.

        Raises:
            InputError: soft labels leave a class without an image.
        """
        missing = set(range(data.classes)) - set(data.hard_labels().tolist())
        if missing:
            raise InputError(
                f"no image of the {data.name} set has class {min(missing)} as its likeliest label, so the classes "
                "cannot be grouped on it: use --set recipe.name=hierarchical --set recipe.stage1=original."
            )
        plain = trainer.train(data, outputs=data.classes)
        features, labels = trainer.features(plain, data), data.hard_labels()
        distances = class_distances(features, labels, data.classes, self.options.centres, trainer.seed)
        return max_cut(distances, self.options.groups, trainer.seed)

    def _head(self, stage: str, trainer: Trainer) -> ClassifierHead:
        name = getattr(self.options, stage)
        head: ClassifierHead = trainer.component("head", {"name": name})
        if head.stages != 1:
            raise InputError(f"head.{stage}={name} has stages of its own, and a stage is one classifier.")
        return head


def _separate(data: TrainingSet, groups: Tensor, head: ClassifierHead, trainer: Trainer) -> list[Classifier | None]:
    classifiers: list[Classifier | None] = []
    for index in range(int(groups.max()) + 1):
        members = torch.nonzero(groups == index).flatten()
        if len(members) == 1:
            classifiers.append(None)
            continue
        part = trainer.part(f"classes of group {index + 1}")
        classifiers.append(head.fit([_restricted(data, members)], part))
    return classifiers


def _shared(data: TrainingSet, groups: Tensor, trainer: Trainer) -> list[Classifier | None]:
    own = groups.to(trainer.device)
    network = trainer.train(data, outputs=data.classes, purpose="classes within groups", loss=_within_groups(own))
    members = [torch.nonzero(own == index).flatten() for index in range(int(own.max()) + 1)]
    return [Softmax(_columns(network, part)) if len(part) > 1 else None for part in members]


def _within_groups(groups: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy over the classes of each image's own group; soft labels are renormalised."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        other = groups[None, :] != groups[_hard(labels)][:, None]
        if labels.dim() == 2:
            labels = labels.masked_fill(other, 0)
            labels = labels / labels.sum(1, keepdim=True)
        return cross_entropy(logits.masked_fill(other, OTHER_GROUP), labels)

    return loss


def _columns(network: Network, members: Tensor) -> Callable[[Tensor], Tensor]:
    """Some of the logits of a network."""
    return lambda images: network(images)[:, members]


def _hard(labels: Tensor) -> Tensor:
    """The class of each image; the likeliest one of a soft label."""
    return labels if labels.dim() == 1 else labels.argmax(1)


def _relabelled(data: TrainingSet, groups: Tensor, count: int) -> TrainingSet:
    """The same images with their groups as labels; soft labels are summed over a group."""
    if data.labels.dim() == 1:
        return replace(data, labels=groups[data.labels], classes=count)
    return replace(data, labels=data.labels @ F.one_hot(groups, count).to(data.labels), classes=count)


def _restricted(data: TrainingSet, members: Tensor) -> TrainingSet:
    """The images of some classes, labelled 0 .. len(members) - 1; soft labels are renormalised.

    Raises:
        InputError: soft labels leave the classes without an image.
    """
    kept = torch.isin(data.hard_labels(), members)
    if not kept.any():
        raise InputError(
            f"no image of the {data.name} set has one of the classes {members.tolist()} as its likeliest label: "
            "use --set head.within=shared."
        )
    if data.labels.dim() == 1:
        labels = torch.searchsorted(members, data.labels[kept])
    else:
        labels = data.labels[kept][:, members]
        labels = labels / labels.sum(1, keepdim=True)
    return replace(data.only(kept), labels=labels, classes=len(members))
