"""The two-stage head (Zheng et al., ICMSSP 2024) with the variants that were measured against it.

Its default is the default of the two-stage head.  Each option changes one thing: how the classes are split into groups,
how stage 1 is corrected, or what stage 2 learns.  None of them became part of the two-stage head;
docs/results/two-stage.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor

from ltdd_ablations.calibration import Corrected, best_correction, offsets, out_of_fold
from ltdd_ablations.partitions import least_confused, shuffled
from ltdd_ablations.second import second_stage
from ltdd_core import Classifier, ClassifierHead, Trainer, TrainingSet, name_of, option
from ltdd_twostage.head import TwoStageHead, check_every_class_occurs, effective_margin
from ltdd_twostage.labels import of_groups
from ltdd_twostage.stages import OfClasses, OfGroups, Stage


class AblationsHead(TwoStageHead):
    """Two-stage classification with the variants that were measured."""

    title = "two-stage ablation"

    class Options(TwoStageHead.Options):
        """The options of the two-stage head, and its variants."""

        within: Literal["separate", "classes", "others", "shared"] = option(  # type: ignore[assignment] # more choices
            "classes",
            "networks of stage 2: one for the classes of each group (separate); the same with all other classes as one "
            "extra class (others); one for all classes with a softmax within each group (shared); or one for all "
            "classes (classes)",
            source="docs/results/two-stage.md",
        )
        partition: Literal["max-cut", "confusion", "random"] = option(
            "max-cut",
            "kind of groups: far apart in feature space (max-cut), classes that stage 1 confuses together (confusion), "
            "or random with the sizes of the max-cut (random)",
            source="Zheng et al. 2024",
        )
        debias: float = option(
            0.0,
            "factor t of the term t log(pi_c) that stage 1 subtracts from the log-probability of a class with "
            "frequency pi_c: post-hoc logit adjustment",
            source="Menon et al. 2021",
            ge=0,
        )
        calibrate: bool = option(
            False,
            "fit of the temperature and margin of stage 1 to the validation images, or to its out-of-fold predictions "
            "where there are none; a stage 2 of all classes has its temperature fitted to the validation images, or to "
            "the images of stage 1's set",
        )
        folds: int = option(
            3,
            "number of folds for out-of-fold predictions, which partition=confusion always needs, and calibrate where "
            "there are no validation images",
            ge=2,
        )
        taught: float = option(
            0.0,
            "weight of stage 1 as a teacher in the loss of stage 2",
            source="docs/results/two-stage.md",
            ge=0,
            le=1,
        )
        temperature: float = option(3.0, "temperature T of teacher and student where taught > 0", gt=0)
        backbone: Literal["own", "stage1"] = option(
            "own", "features of stage 2: those of a new network (own), or the frozen features of stage 1 (stage1)"
        )
        real: bool = option(False, "use of stage 1's set, class-balanced, for half of the training images of stage 2")

        @model_validator(mode="after")
        def _variants_go_together(self) -> Self:
            for wrong, text in (
                (
                    self.within == "shared" and name_of(self.stage2) != "linear",
                    "within=shared has its own loss: use stage2=linear",
                ),
                (
                    self.taught > 0 and (self.targets == "groups" or self.within in ("shared", "others")),
                    "taught > 0 needs targets=classes, and within=separate or within=classes",
                ),
                (
                    self.taught > 0 and name_of(self.stage2) != "linear",
                    "taught > 0 has its own loss: use stage2=linear",
                ),
                (
                    self.partition == "confusion" and self.targets == "groups",
                    "partition=confusion asks stage 1 for the class: use targets=classes",
                ),
                (
                    self.backbone == "stage1"
                    and (self.targets == "groups" or self.within != "classes" or self.taught > 0 or self.real),
                    "backbone=stage1 needs targets=classes and within=classes, without taught and real",
                ),
            ):
                if wrong:
                    raise ValueError(text)
            return self

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Find the groups on stage 1's set, then train both stages."""
        head1, head2 = (self.stage_head(stage, trainer) for stage in ("stage1", "stage2"))
        groups = self.partition(sets[0], trainer)
        first = self.first_stage(sets[0], groups, head1, trainer)
        second = second_stage(self.options, head2, sets, groups, first, trainer)
        return self.combined(groups, first, second, sets)

    def partition(self, data: TrainingSet, trainer: Trainer) -> Tensor:
        """The group of each class, int64 ``[classes]``; see :meth:`ltdd_twostage.head.TwoStageHead.partition`."""
        if self.options.partition == "confusion":
            check_every_class_occurs(data)
            head = self.stage_head("stage1", trainer)
            log_p = out_of_fold(head, data, self.options.folds, trainer, "classes")
            return least_confused(log_p, data.labels, self.options.groups, trainer.seed)
        groups = super().partition(data, trainer)
        return shuffled(groups, trainer.seed) if self.options.partition == "random" else groups

    def first_stage(self, data: TrainingSet, groups: Tensor, head: ClassifierHead, trainer: Trainer) -> Stage:
        """Stage 1, trained and corrected; see :meth:`ltdd_twostage.head.TwoStageHead.first_stage`."""
        by_group = self.options.targets == "groups"
        stage_set = of_groups(data, groups, int(groups.max()) + 1) if by_group else data
        classifier = head.fit([stage_set], trainer.part("groups") if by_group else trainer)
        counts, temperature, margin = stage_set.counts(), 1.0, effective_margin(self.options)
        if self.options.calibrate and trainer.validation is not None:
            unseen = trainer.validation
            unseen = of_groups(unseen, groups, int(groups.max()) + 1) if by_group else unseen
            log_p = trainer.outputs(classifier.log_probabilities, unseen)
            temperature, margin = best_correction(log_p, unseen.labels, counts, self.options.debias)
        elif self.options.calibrate:
            folds = self.options.folds
            log_p = out_of_fold(head, stage_set, folds, trainer, "groups" if by_group else "classes")
            counts_in_folds = counts * (folds - 1) / folds
            temperature, margin = best_correction(log_p, stage_set.labels, counts_in_folds, self.options.debias)
        corrected = Corrected(classifier, offsets(counts, margin, self.options.debias), temperature=temperature)
        return OfGroups(corrected) if by_group else OfClasses(corrected, groups)
