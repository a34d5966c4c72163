"""Two-stage classification (Zheng et al., ICMSSP 2024): first the group of an image, then its class within the group.

Stage 1 learns from the long-tailed set and stage 2 from the distilled set, unless the recipe says otherwise.

As published (``--preset twostage-paper``): the classes are split into K groups that lie far apart in feature space.
Stage 1 is a classifier of the groups, and stage 2 has a classifier for the classes of each group.  Routing is *hard*:
the answer is arg max_c p(c | g, x) with g = arg max_g p(g | x), so an image whose group is wrong is lost.

By default both stages are classifiers of all classes, and stage 1 is a balanced softmax with a margin for rare classes.
Stage 1 alone chooses the group.  Both stages choose the class within the group, and the more images stage 1 has learnt
from, the larger is its weight in that choice.  :mod:`ltdd_twostage.stages` has the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    InputError,
    Named,
    Trainer,
    TrainingSet,
    class_distances,
    how_to_set,
    max_cut,
    name_of,
    option,
)
from ltdd_twostage.labels import of_groups, of_members
from ltdd_twostage.margin import WithOffsets, margins
from ltdd_twostage.stages import OfClasses, OfGroups, Stage, TwoStage, WithinGroups

BALANCED = ("balanced-softmax", "logit-adjustment")
"""Heads whose loss is meant to remove the preference for frequent classes, and leaves some of it."""
BALANCED_MARGIN = 2.0
"""Margin of a balanced stage 1 of classes; docs/results/two-stage.md shows how it was chosen."""


class TwoStageHead(ClassifierHead):
    """Group first, then class within the group."""

    title = "two-stage"
    stages = 2
    opponent = "balanced-softmax"  # knows the class counts as stage 1 does, and needs no distilled set

    class Options(BaseOptions):
        """The partition, what each stage learns, and how their answers are combined."""

        groups: int = option(2, "number of groups K", source="Zheng et al. 2024", ge=2)
        centres: int = option(
            5, "number of k-means centres M of each class; the distance of two classes is that of their centres",
            source="Zheng et al. 2024", ge=1,
        )  # fmt: skip
        targets: Literal["groups", "classes"] = option(
            "classes",
            "labels that stage 1 learns: groups, or classes whose probabilities are then summed over each group",
            source="docs/results/two-stage.md",
        )
        stage1: Named = option(
            "balanced-softmax", "head that trains stage 1", source="docs/results/two-stage.md", component="head"
        )
        stage2: Named = option("linear", "head that trains stage 2", source="Zheng et al. 2024", component="head")
        within: Literal["separate", "classes"] = option(
            "classes",
            "networks of stage 2: one for the classes of each group (separate), or one for all classes (classes)",
            source="docs/results/two-stage.md",
        )
        routing: Literal["soft", "hard"] = option(
            "soft",
            "groups that count in the answer: all, weighted by their probability (soft), or the likeliest only (hard)",
        )
        a: float = option(
            1.0, "weight of stage 1 in the choice of the group", source="docs/results/two-stage.md", ge=0, le=1
        )
        b: float | None = option(
            None,
            "weight of stage 1 in the choice of the class within the group; None: 0 where stage 1 learns groups, 0.5 "
            "where both stages have the same training set, else h / (h + worth) with the harmonic mean h of the class "
            "counts of stage 1's set",
            source="docs/results/two-stage.md",
            ge=0,
            le=1,
        )
        worth: float = option(
            7.0,
            "number of images per class that the knowledge of stage 2 is taken to be worth; used where b is None",
            source="docs/results/two-stage.md",
            gt=0,
        )
        margin: float | None = option(
            None,
            "factor m of the term m / n_c^(1/4) that stage 1 adds to the log-probability of a class with n_c images; "
            "None: 2 where stage 1 learns classes with balanced-softmax or logit-adjustment, else 0",
            source="Cao et al. 2019; docs/results/two-stage.md",
            ge=0,
        )

        @model_validator(mode="after")
        def _stages_know_what_they_are_asked(self) -> Self:
            if self.a < 1 and self.within != "classes":
                raise ValueError("a < 1 asks stage 2 for the group: use within=classes")
            if self.b and self.targets == "groups":
                raise ValueError("b > 0 asks stage 1 for the class: use targets=classes")
            return self

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Find the groups on stage 1's set, then train both stages."""
        head1, head2 = (self.stage_head(stage, trainer) for stage in ("stage1", "stage2"))
        groups = self.partition(sets[0], trainer)
        first = self.first_stage(sets[0], groups, head1, trainer)
        second = self._second_stage(sets[1], groups, head2, trainer)
        return self.combined(groups, first, second, sets)

    def stage_head(self, stage: Literal["stage1", "stage2"], trainer: Trainer) -> ClassifierHead:
        """The head that trains a stage.

        Raises:
            InputError: it has stages itself.
        """
        named = getattr(self.options, stage)
        head: ClassifierHead = trainer.component("head", named)
        if head.stages != 1:
            raise InputError(f"head.{stage}={name_of(named)} has {head.stages} stages, and a stage is one classifier.")
        return head

    def partition(self, data: TrainingSet, trainer: Trainer) -> Tensor:
        """The group of each class, int64 ``[classes]``: the largest cut by distance in feature space.

        Args:
            data: the set of stage 1.
            trainer: trains the plain classifier whose features are used.

        Raises:
            InputError: a class has no image.
        """
        check_every_class_occurs(data)
        plain = trainer.train(data, outputs=data.classes)
        features, labels = trainer.features(plain, data), data.labels
        distances = class_distances(features, labels, data.classes, self.options.centres, trainer.seed)
        return max_cut(distances, self.options.groups, trainer.seed)

    def first_stage(self, data: TrainingSet, groups: Tensor, head: ClassifierHead, trainer: Trainer) -> Stage:
        """Stage 1, trained: a classifier of the groups or of all classes.

        Args:
            data: the set of stage 1.
            groups: int64 ``[classes]``.
            head: trains it.
            trainer: of the whole head.
        """
        by_group = self.options.targets == "groups"
        stage_set = of_groups(data, groups, int(groups.max()) + 1) if by_group else data
        part = trainer.part("groups") if by_group else trainer
        offsets = margins(stage_set.counts(), effective_margin(self.options))
        classifier = WithOffsets(head.fit([stage_set], part), offsets)
        return OfGroups(classifier) if by_group else OfClasses(classifier, groups)

    def _second_stage(self, data: TrainingSet, groups: Tensor, head: ClassifierHead, trainer: Trainer) -> Stage:
        if self.options.within == "classes":
            return OfClasses(head.fit([data], trainer), groups)
        classifiers: list[Classifier | None] = []
        for group in range(int(groups.max()) + 1):
            members = torch.nonzero(groups == group).flatten()
            part = trainer.part(f"classes of group {group + 1}")
            classifiers.append(head.fit([of_members(data, members)], part) if len(members) > 1 else None)
        return WithinGroups(classifiers, groups)

    def combined(self, groups: Tensor, first: Stage, second: Stage, sets: Sequence[TrainingSet]) -> TwoStage:
        """Both trained stages as one classifier.

        Args:
            groups: int64 ``[classes]``.
            first: stage 1.
            second: stage 2.
            sets: of the stages.
        """
        options, same_set = self.options, sets[0].name == sets[1].name
        b = effective_b(options, sets[0].counts(), same_set=same_set)
        return TwoStage(groups, first, second, a=options.a, b=b, hard=options.routing == "hard")


def check_every_class_occurs(data: TrainingSet) -> None:
    """See that classes can be grouped on a set.

    Raises:
        InputError: a class has no image.
    """
    missing = set(range(data.classes)) - set(data.labels.tolist())
    if missing:
        raise InputError(
            f"the {data.name} set has no image of class {min(missing)}, so the classes cannot be grouped on it: use "
            f"{how_to_set('recipe', {'name': 'hierarchical', 'stage1': 'original'})}."
        )


def effective_margin(options: TwoStageHead.Options) -> float:
    """The margin of stage 1: as given, or what suits the other options.

    Only a balanced head of the classes has a preference for frequent classes left that the margin makes up for.
    """
    if options.margin is not None:
        return options.margin
    balanced = options.targets == "classes" and name_of(options.stage1) in BALANCED
    return BALANCED_MARGIN if balanced else 0.0


def effective_b(options: TwoStageHead.Options, counts: Tensor, *, same_set: bool) -> float:
    """The weight of stage 1 in the choice of the class within the group: as given, or what suits the rest.

    Args:
        options: of the head.
        counts: images of each class in the set of stage 1, above 0, ``[classes]``.
        same_set: whether both stages learn from the same set.  Neither has then seen more than the other.
    """
    if options.b is not None:
        return options.b
    if options.targets == "groups":
        return 0.0
    return 0.5 if same_set else stage1_weight(counts, options.worth)


def stage1_weight(counts: Tensor, worth: float) -> float:
    """Weight of stage 1, from 0 to 1: h / (h + worth), with the harmonic mean h of its class counts.

    The mean is harmonic because the error on class c is taken to fall as 1 / n_c, n_c the images of class c, and the
    class-balanced error is a mean over classes.  Stage 2 counts for ``worth`` images per class, whatever the number of
    its images.

    The formula is not the paper's; docs/results/two-stage.md shows how the default of ``worth`` was chosen.

    Args:
        counts: images of each class in the set of stage 1, above 0, ``[classes]``.
        worth: images per class, above 0.
    """
    h = len(counts) / float((1 / counts.double()).sum())
    return h / (h + worth)
