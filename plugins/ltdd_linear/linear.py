"""One network, one linear layer, softmax cross-entropy; trained on one set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ltdd_core import BaseOptions, Classifier, ClassifierHead, Recipe, Softmax, Trainer, TrainingSet, option


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

        data: Literal["original", "distilled"] = option("distilled", "original or distilled")

    def assign(self, stages: int) -> tuple[str, ...]:
        """The same set for every stage."""
        return (self.options.data,) * stages
