"""Two-stage classification (Zheng et al., ICMSSP 2024): the group first, then the class within the group.

Stage 1 is a network that tells the groups of a partition apart, p(g | x).  Stage 2 tells the classes of a
group apart, p(c | g, x): a network for each group, or one for all of them whose softmax runs within each
group.  The paper routes *hard*, arg max_g p(g | x) and then arg max_c p(c | g, x), which loses every image
whose group is wrong; *soft* routing takes arg max_c p(g(c) | x) p(c | g(c), x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    EpochOrder,
    InputError,
    Trainer,
    TrainingSet,
    cross_entropy,
    option,
)
from ltdd_twostage.partition import class_distances, max_cut

Logits = Callable[[Tensor], Tensor]
"""``images -> logits [n, outputs]``: a network, or some of its outputs."""

OTHER_GROUP = -1e9  # a logit that no softmax notices, and finite: 0 x -inf would be NaN


class TwoStage(Classifier):
    """A group network and the networks within the groups.

    Args:
        groups: int64 ``[classes]``.
        group_network: logits ``[n, K]``.
        class_networks: one for each group with a logit for each of its classes, in the order of the
            classes; None for a group of one class.
        hard: route hard.
    """

    groups: Tensor

    def __init__(
        self,
        groups: Tensor,
        group_network: Logits,
        class_networks: Sequence[Logits | None],
        *,
        hard: bool,
    ) -> None:
        self.groups, self.hard = groups, hard
        self._group_network, self._class_networks = group_network, class_networks

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log p(g) + log p(c | g) ``[n, classes]``; with hard routing -inf outside the likeliest group."""
        group = self._group_network(images).float().log_softmax(1)  # [n, K]
        if self.hard:
            chosen = F.one_hot(group.argmax(1), group.shape[1]).bool()
            group = torch.where(chosen, 0.0, -torch.inf)
        result = images.new_empty(len(images), len(self.groups), dtype=torch.float32)
        for index, network in enumerate(self._class_networks):
            members = (self.groups == index).to(images.device)
            within = network(images).float().log_softmax(1) if network is not None else 0.0
            result[:, members] = group[:, index, None] + within
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

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Find the partition on stage 1's set, then train both stages."""
        first, second = sets
        groups = self.partition(first, trainer)
        count = int(groups.max()) + 1
        by_group = trainer.train(_relabelled(first, groups, count), outputs=count, purpose="groups")
        if self.options.within == "shared":
            networks = self._shared(second, groups, trainer)
        else:
            networks = self._separate(second, groups, trainer)
        return TwoStage(groups, by_group, networks, hard=self.options.routing == "hard")

    def partition(self, data: TrainingSet, trainer: Trainer) -> Tensor:
        """Groups that lie far apart in the features of a plain classifier of the same set.

        Raises:
            InputError: soft labels leave a class without an image.
        """
        missing = set(range(data.classes)) - set(_hard(data.labels).tolist())
        if missing:
            raise InputError(
                f"no image of the {data.name} set has class {min(missing)} as its likeliest label, so the classes "
                "cannot be grouped on it: use --set recipe.name=hierarchical --set recipe.stage1=original."
            )
        plain = trainer.train(data, outputs=data.classes)
        features, labels = trainer.features(plain, data), _hard(data.labels)
        distances = class_distances(features, labels, data.classes, self.options.centres, trainer.seed)
        return max_cut(distances, self.options.groups, trainer.seed)

    def _separate(self, data: TrainingSet, groups: Tensor, trainer: Trainer) -> list[Logits | None]:
        networks: list[Logits | None] = []
        for index in range(int(groups.max()) + 1):
            members = torch.nonzero(groups == index).flatten()
            if len(members) == 1:
                networks.append(None)
                continue
            part = _restricted(data, members)
            networks.append(trainer.train(part, outputs=len(members), purpose=f"classes of group {index + 1}"))
        return networks

    def _shared(self, data: TrainingSet, groups: Tensor, trainer: Trainer) -> list[Logits | None]:
        own = groups.to(trainer.device)
        network = trainer.train(data, outputs=data.classes, purpose="classes within groups", loss=_within_groups(own))
        members = [torch.nonzero(own == index).flatten() for index in range(int(own.max()) + 1)]
        return [_columns(network, part) if len(part) > 1 else None for part in members]


def _within_groups(groups: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy over the classes of each image's own group; soft labels are renormalised."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        other = groups[None, :] != groups[_hard(labels)][:, None]
        if labels.dim() == 2:
            labels = labels.masked_fill(other, 0)
            labels = labels / labels.sum(1, keepdim=True)
        return cross_entropy(logits.masked_fill(other, OTHER_GROUP), labels)

    return loss


def _columns(network: Logits, members: Tensor) -> Logits:
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
    kept = torch.isin(_hard(data.labels), members)
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
    return replace(
        data, images=data.images[kept], labels=labels, classes=len(members), order=_order_of(data.order, kept)
    )


def _order_of(order: EpochOrder | None, kept: Tensor) -> EpochOrder | None:
    """The epochs of the whole set with the other images left out: the sampler's balance stays."""
    if order is None:
        return None
    position = kept.cumsum(0) - 1

    def restricted(progress: float, generator: torch.Generator) -> Tensor:
        whole = order(progress, generator)
        return position[whole[kept[whole]]]

    return restricted
