"""Two-stage classification (Zheng et al., ICMSSP 2024): the group first, then the class within the group.

Stage 1 learns from the long-tailed set and stage 2 from the distilled one, unless the recipe says otherwise.  As
published (``preset=paper``) stage 1 tells the groups of a partition apart, stage 2 has a classifier for the classes of
each group, and the answer is *hard*: arg max_g p(g | x) and then arg max_c p(c | g, x), which loses every image whose
group is wrong.  By default both stages know all classes, stage 1 with a balanced softmax; the group is stage 1's
opinion, and the class within it that of both (``stages``), stage 1's the more the more images it has learnt from.
Stage 1 may teach stage 2 (``labels``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

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
    max_cut,
    name_of,
    option,
)
from ltdd_twostage import labels as learn
from ltdd_twostage.calibration import Corrected, best_correction, offsets, out_of_fold
from ltdd_twostage.confusion import least_confused, shuffled
from ltdd_twostage.second import second_stage
from ltdd_twostage.stages import OfClasses, OfGroups, Stage, TwoStage

PAPER: Mapping[str, Any] = {
    "targets": "groups",
    "stage1": "linear",
    "stage2": "linear",
    "within": "separate",
    "routing": "hard",
    "a": 1.0,
    "b": 0.0,
    "margin": 0.0,
    "taught": 0.0,
}
"""What Zheng et al. published; the other options have the paper's value, or none of their own, by default."""

BALANCED = ("balanced-softmax", "logit-adjustment")
"""Losses that are to be free of class frequencies, and leave some."""


def _suited(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that go with what was chosen."""
    suited: dict[str, Any] = {}
    if chosen.get("targets") == "groups":
        suited |= {"b": 0.0, "margin": 0.0}
    if name_of(chosen.get("stage1", BALANCED[0])) not in BALANCED:
        suited["margin"] = 0.0
    if chosen.get("within", "classes") != "classes":
        suited["a"] = 1.0
    return suited


def say_of_the_first(counts: Tensor, worth: float) -> float:
    """Stage 1's part in the answer, from 0 to 1: h / (h + worth), h the harmonic mean of its class counts.

    What a class is known by grows with its images, and the errors of a balanced classifier with the mean over classes
    of 1 / n_c, so it is the harmonic mean that says how much stage 1 has seen.  Stage 2 counts for ``worth`` images a
    class, however many it has.  Ours; docs/results/two-stage.md has how the default of ``worth`` was chosen.

    Args:
        counts: images of each class in stage 1's set, above 0.
        worth: images a class, above 0.
    """
    h = len(counts) / float((1 / counts.double()).sum())
    return h / (h + worth)


class TwoStageHead(ClassifierHead):
    """Group first, then class within the group."""

    title = "two-stage"
    stages = 2

    class Options(BaseOptions):
        """The partition, what each stage learns, and how the stages work together."""

        preset: Literal["default", "paper"] = option("default", "paper: exactly as published; others may be set beside")
        groups: int = option(2, "K, the number of groups", source="Zheng et al. 2024", ge=2)
        centres: int = option(5, "M, k-means centres a class", source="Zheng et al. 2024", ge=1)
        partition: Literal["max-cut", "confusion", "random"] = option(
            "max-cut",
            "the paper's; classes that stage 1 takes for each other together, out of fold; or, as a control, by chance",
            source="Zheng et al. 2024",
        )
        targets: Literal["groups", "classes"] = option(
            "classes", "what stage 1 learns to tell apart", source="docs/results/two-stage.md"
        )
        stage1: Named = option(
            "balanced-softmax", "head of stage 1", source="docs/results/two-stage.md", component="head"
        )
        stage2: Named = option("linear", "head of stage 2", source="Zheng et al. 2024", component="head")
        within: Literal["separate", "others", "shared", "classes"] = option(
            "classes",
            "stage 2: a network for each group; one that knows the others as one class more; one network with a "
            "softmax in each group; or one for all classes",
            source="docs/results/two-stage.md",
        )
        routing: Literal["soft", "hard"] = option("soft", "hard: the likeliest group is certain, as in the paper")
        a: float = option(
            1.0, "how much of the group is stage 1's opinion", source="docs/results/two-stage.md", ge=0, le=1
        )
        b: float | None = option(
            None,
            "how much of the class within the group is; unless given, h / (h + worth) with the harmonic mean h of the "
            "class counts of stage 1's set, 0.5 where stage 2 has the same set, 0 where stage 1 knows groups only",
            source="docs/results/two-stage.md",
            ge=0,
            le=1,
        )
        worth: float = option(
            7.0,
            "how many images a class stage 2 counts for against stage 1's",
            source="docs/results/two-stage.md",
            gt=0,
        )
        margin: float = option(
            2.0,
            "what stage 1 adds to the log-probability of a class of n_c images: margin n_c^(-1/4)",
            source="Cao et al. 2019; docs/results/two-stage.md",
            ge=0,
        )
        debias: float = option(
            0.0,
            "what it takes away for the class's frequency: debias log pi_c, post-hoc logit adjustment",
            source="Menon et al. 2021",
            ge=0,
        )
        taught: float = option(
            0.0,
            "stage 2 learns from stage 1 on its images: the teacher's weight",
            source="docs/results/two-stage.md",
            ge=0,
            le=1,
        )
        temperature: float = option(3.0, "T of teacher and pupil", gt=0)
        backbone: Literal["own", "stage1"] = option(
            "own", "stage1: stage 2 is a last layer on the features of stage 1, which stay as they are"
        )
        real: bool = option(False, "half of what stage 2 sees are images of stage 1's set, classes alike")
        calibrate: bool = option(
            False, "temperatures: of stage 1, with margin, out of fold; of stage 2 on the images of stage 1's set"
        )
        folds: int = option(3, "of what is predicted out of fold", ge=2)

        @model_validator(mode="before")
        @classmethod
        def _filled_in(cls, values: Any) -> Any:
            if not isinstance(values, dict):
                return values
            return {**(PAPER if values.get("preset") == "paper" else _suited(values)), **values}

        @model_validator(mode="after")
        def _goes_together(self) -> Self:
            for wrong, text in (
                (
                    self.within == "shared" and name_of(self.stage2) != "linear",
                    "within=shared is a network of its own and goes with stage2=linear only",
                ),
                (self.a < 1 and self.within != "classes", "a < 1 asks stage 2 for the group: within=classes"),
                (self.b != 0 and self.targets == "groups", "b > 0 asks stage 1 for the class: targets=classes"),
                (
                    self.taught > 0 and (self.targets == "groups" or self.within in ("shared", "others")),
                    "taught > 0 goes with targets=classes and with within=separate or within=classes",
                ),
                (
                    self.taught > 0 and name_of(self.stage2) != "linear",
                    "taught > 0 has a loss of its own: stage2=linear",
                ),
                (
                    self.partition == "confusion" and self.targets == "groups",
                    "partition=confusion asks stage 1 for the class: targets=classes",
                ),
                (
                    self.backbone == "stage1"
                    and (self.targets == "groups" or self.within != "classes" or self.taught > 0 or self.real),
                    "backbone=stage1 goes with targets=classes, within=classes, and neither taught nor real",
                ),
            ):
                if wrong:
                    raise ValueError(text)
            return self

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Find the partition on stage 1's set, then train both stages."""
        first, second = sets
        heads = {stage: self._head(stage, trainer) for stage in ("stage1", "stage2")}
        groups = self.partition(first, trainer, heads["stage1"])
        one = self._first(first, groups, heads["stage1"], trainer)
        options = self.options
        two = second_stage(options, heads["stage2"], first, second, groups, one, trainer)
        b = options.b
        if b is None:  # two stages of the same set count alike
            b = 0.5 if first.name == second.name else say_of_the_first(first.counts(), options.worth)
        return TwoStage(groups, one, two, a=options.a, b=b, hard=options.routing == "hard")

    # ---- the partition ---------------------------------------------------------------------------

    def partition(self, data: TrainingSet, trainer: Trainer, head: ClassifierHead) -> Tensor:
        """The group of each class, int64 ``[classes]``.

        Raises:
            InputError: soft labels leave a class without an image.
        """
        missing = set(range(data.classes)) - set(data.hard_labels().tolist())
        if missing:
            raise InputError(
                f"no image of the {data.name} set has class {min(missing)} as its likeliest label, so the classes "
                "cannot be grouped on it: use --set recipe.name=hierarchical --set recipe.stage1=original."
            )
        if self.options.partition == "confusion":
            unseen = out_of_fold(head, data, self.options.folds, trainer, "classes", self._decided_by(head))
            return least_confused(unseen, data.hard_labels(), self.options.groups, trainer.seed)
        plain = trainer.train(data, outputs=data.classes)
        features, labels = trainer.features(plain, data), data.hard_labels()
        distances = class_distances(features, labels, data.classes, self.options.centres, trainer.seed)
        groups = max_cut(distances, self.options.groups, trainer.seed)
        return shuffled(groups, trainer.seed) if self.options.partition == "random" else groups

    # ---- stage 1 ---------------------------------------------------------------------------------

    def _first(self, data: TrainingSet, groups: Tensor, head: ClassifierHead, trainer: Trainer) -> Stage:
        by_group = self.options.targets == "groups"
        own = learn.of_groups(data, groups, int(groups.max()) + 1) if by_group else data
        decided_by = self._decided_by(head)
        classifier = head.fit([own], trainer.part("groups" if by_group else None, decided_by))
        counts, temperature, margin = own.counts(), 1.0, self.options.margin
        if self.options.calibrate:
            name, folds = "groups" if by_group else "classes", self.options.folds
            unseen = out_of_fold(head, own, folds, trainer, name, decided_by)
            learnt = counts * (folds - 1) / folds
            temperature, margin = best_correction(unseen, own.hard_labels(), learnt, self.options.debias)
        classifier = Corrected(classifier, offsets(counts, margin, self.options.debias), temperature=temperature)
        return OfGroups(classifier) if by_group else OfClasses(classifier, groups)

    def _decided_by(self, head: ClassifierHead) -> Mapping[str, Any]:
        return {"name": name_of(self.options.stage1), **head.options.model_dump(mode="json")}

    def _head(self, stage: str, trainer: Trainer) -> ClassifierHead:
        named = getattr(self.options, stage)
        head: ClassifierHead = trainer.component("head", named)
        if head.stages != 1:
            raise InputError(f"head.{stage}={name_of(named)} has stages of its own, and a stage is one classifier.")
        return head
