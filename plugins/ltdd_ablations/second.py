"""Stage 2 with other networks, other data or a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ltdd_ablations.calibration import Corrected
from ltdd_ablations.labels import both, of_members_and_others, within_groups
from ltdd_ablations.teaching import TaughtHead, taught, taught_members
from ltdd_core import (
    Classifier,
    ClassifierHead,
    InputError,
    Network,
    Softmax,
    Storable,
    Trainer,
    TrainingSet,
    best_temperature,
)
from ltdd_twostage.labels import of_members
from ltdd_twostage.stages import OfClasses, Stage, WithinGroups


def second_stage(
    options: Any, head: ClassifierHead, sets: Sequence[TrainingSet], groups: Tensor, first: Stage, trainer: Trainer
) -> Stage:
    """Stage 2, trained as the options of :class:`ltdd_ablations.head.AblationsHead` ask.

    Args:
        options: of that head.
        head: trains stage 2, where it has no teacher and is no layer on the features of stage 1.
        sets: of both stages.
        groups: int64 ``[classes]``.
        first: stage 1, trained.
        trainer: of the whole head.
    """
    data, where = (both(*sets), " of both sets") if options.real else (sets[1], "")
    teacher = None
    if options.taught and isinstance(first, OfClasses):
        teacher = trainer.outputs(first.classifier.log_probabilities, data)
        head = TaughtHead(TaughtHead.Options(weight=options.taught, temperature=options.temperature))
    if options.within == "classes":
        if options.backbone == "stage1" and isinstance(first, OfClasses):
            classifier = _layer_on_features(first.classifier, data, trainer)
        else:
            stage_set = data if teacher is None else taught(data, teacher)
            classifier = head.fit([stage_set], trainer.part(f"classes{where}") if where else trainer)
        unseen = sets[0] if trainer.validation is None else trainer.validation
        return OfClasses(_calibrated(classifier, unseen, trainer) if options.calibrate else classifier, groups)
    if options.within == "shared":
        part = trainer.part(f"classes within groups{where}")
        return WithinGroups(_shared(data, groups, part), groups)
    classifiers: list[Classifier | None] = []
    for group in range(int(groups.max()) + 1):
        members = torch.nonzero(groups == group).flatten()
        part = trainer.part(f"classes of group {group + 1}{where}")
        classifiers.append(_of_group(options.within, head, data, teacher, members, part))
    return WithinGroups(classifiers, groups)


def _of_group(
    within: str, head: ClassifierHead, data: TrainingSet, teacher: Tensor | None, members: Tensor, trainer: Trainer
) -> Classifier | None:
    """The classifier of a group; none for a single class, unless that is told apart from the others."""
    if within == "others":
        return WithoutOthers(head.fit([of_members_and_others(data, members)], trainer))
    if len(members) == 1:
        return None
    stage_set = of_members(data, members) if teacher is None else taught_members(data, teacher, members)
    return head.fit([stage_set], trainer)


class WithoutOthers(Classifier):
    """The classes of a group from a classifier that has the others as its last class.

    Its probabilities add up to less than one: what the others get is missing, and so lowers the whole group.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-probabilities of the classes of the group, ``[n, members]``."""
        return self.classifier.log_probabilities(images)[:, :-1]


def _calibrated(classifier: Classifier, unseen: TrainingSet, trainer: Trainer) -> Classifier:
    """The classifier at the temperature that is best for images that it was not trained on."""
    log_p = trainer.outputs(classifier.log_probabilities, unseen)
    return Corrected(classifier, temperature=best_temperature(log_p, unseen.labels))


def _shared(data: TrainingSet, groups: Tensor, trainer: Trainer) -> list[Classifier | None]:
    """One network for all groups, its softmax within each of them."""
    device_groups = groups.to(trainer.device)
    network = trainer.train(data, outputs=data.classes, loss=within_groups(device_groups))
    members = [torch.nonzero(device_groups == group).flatten() for group in range(int(groups.max()) + 1)]
    return [Softmax(Columns(network, classes)) if len(classes) > 1 else None for classes in members]


class Columns(Storable):
    """Some of the logits of a network.

    Args:
        network: gives logits ``[n, classes]``.
        members: the classes, int64.
    """

    def __init__(self, network: Network, members: Tensor) -> None:
        super().__init__()
        self.network = network
        self.members = nn.Buffer(members)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, members]``."""
        return self.network(images)[:, self.members]


def _layer_on_features(classifier: Classifier, data: TrainingSet, trainer: Trainer) -> Classifier:
    """A last layer on the features of a trained network, which stay frozen (as in cRT, Kang et al., ICLR 2020)."""
    inner = classifier.classifier if isinstance(classifier, Corrected) else classifier
    network = inner.logits if isinstance(inner, Softmax) else None
    if not isinstance(network, Network):
        raise InputError("head.backbone=stage1 needs a stage 1 that is one network: use another head.stage1.")
    options = trainer.options[data.name]
    return Softmax(
        trainer.retrain(
            network,
            data,
            options,
            layer=nn.Linear,
            purpose="a layer on stage 1's features",
            lr_option=f"training.{data.name}.lr",
        )
    )
