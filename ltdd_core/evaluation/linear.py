"""The plain classifier: one network, one linear layer, softmax cross-entropy; and the recipe that goes with one set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ltdd_core.evaluation.head import Classifier, ClassifierHead, Recipe, Softmax
from ltdd_core.options import BaseOptions, option
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer


class LinearHead(ClassifierHead):
    """A linear layer trained together with its network."""

    title = "linear"

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        return Softmax(trainer.train(sets[0], outputs=sets[0].classes))


class Direct(Recipe):
    """Train every stage on the same set."""

    class Options(BaseOptions):
        """The set."""

        data: Literal["original", "distilled"] = option(
            "distilled", "training set of every stage: original or distilled"
        )

    def assign(self, stages: int) -> tuple[str, ...]:
        """The same set for every stage."""
        return (self.options.data,) * stages
