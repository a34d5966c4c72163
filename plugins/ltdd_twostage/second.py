"""Train stage 2: what it learns from, how many networks it has, and whether stage 1 teaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ltdd_core import Classifier, ClassifierHead, InputError, Network, Softmax, Trainer, TrainingSet, name_of
from ltdd_twostage import labels as learn
from ltdd_twostage.calibration import Corrected, best_temperature, predictions
from ltdd_twostage.stages import OfClasses, Stage, WithinGroups


def second_stage(
    options: Any,
    head: ClassifierHead,
    first: TrainingSet,
    second: TrainingSet,
    groups: Tensor,
    one: Stage,
    trainer: Trainer,
) -> Stage:
    """Stage 2 as the options of the two-stage head say.

    Args:
        options: of the two-stage head.
        head: trains it, where it has no teacher and is no layer on stage 1's features.
        first: the set of stage 1.
        second: the set of stage 2.
        groups: int64 ``[classes]``.
        one: stage 1, trained.
        trainer: of the whole.
    """
    data, where = (learn.both(first, second), " of both sets") if options.real else (second, "")
    teacher, name = None, name_of(options.stage2)
    if options.taught and isinstance(one, OfClasses):
        teacher, name = predictions(one.classifier, data, trainer), "taught"
        head = learn.TaughtHead(learn.TaughtHead.Options(weight=options.taught, temperature=options.temperature))
    decided_by = {"name": name, **head.options.model_dump(mode="json")}
    if options.within == "classes":
        if options.backbone == "stage1" and isinstance(one, OfClasses):
            classifier = _last_layer(one.classifier, data, trainer)
        else:
            own = data if teacher is None else learn.taught(data, teacher)
            classifier = head.fit([own], trainer.part(f"classes{where}" if where else None, decided_by))
        if options.calibrate:
            seen = predictions(classifier, first, trainer)
            classifier = Corrected(classifier, temperature=best_temperature(seen, first.hard_labels()))
        return OfClasses(classifier, groups)
    if options.within == "shared":
        part = trainer.part(f"classes within groups{where}", {"groups": groups.tolist()})
        return WithinGroups(_shared(data, groups, part), groups)
    classifiers: list[Classifier | None] = []
    for index in range(int(groups.max()) + 1):
        members = torch.nonzero(groups == index).flatten()
        if len(members) == 1 and options.within == "separate":
            classifiers.append(None)
            continue
        part = trainer.part(f"classes of group {index + 1}{where}", decided_by)
        classifiers.append(head.fit([_own_set(options.within, data, teacher, members)], part))
    return WithinGroups(classifiers, groups)


def _own_set(within: str, data: TrainingSet, teacher: Tensor | None, members: Tensor) -> TrainingSet:
    """What the classifier of a group learns."""
    if within == "others":
        return learn.of_members_and_others(data, members)
    return learn.of_members(data, members) if teacher is None else learn.taught_members(data, teacher, members)


def _shared(data: TrainingSet, groups: Tensor, trainer: Trainer) -> list[Classifier | None]:
    """One network for all groups, its softmax within each of them."""
    own = groups.to(trainer.device)
    network = trainer.train(data, outputs=data.classes, loss=learn.within_groups(own))
    members = [torch.nonzero(own == index).flatten() for index in range(int(own.max()) + 1)]
    return [Softmax(columns(network, part)) if len(part) > 1 else None for part in members]


def columns(network: Network, members: Tensor) -> Callable[[Tensor], Tensor]:
    """Some of the logits of a network."""
    return lambda images: network(images)[:, members]


def _last_layer(classifier: Classifier, data: TrainingSet, trainer: Trainer) -> Classifier:
    """A last layer on the features of a trained network, which stay as they are (as cRT, Kang et al., ICLR 2020)."""
    own = classifier.classifier if isinstance(classifier, Corrected) else classifier
    network = own.logits if isinstance(own, Softmax) else None
    if not isinstance(network, Network):
        raise InputError("head.backbone=stage1 needs a network as stage 1, and head.stage1 makes more of it.")
    options = trainer.options[data.name]
    return Softmax(trainer.retrain(network, data, options, layer=nn.Linear, purpose="a layer on stage 1's features"))
