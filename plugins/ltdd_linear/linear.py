"""One network, one linear layer, softmax cross-entropy; trained on one set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ltdd_core import BaseOptions, Classifier, ClassifierHead, Network, Recipe, Trainer, TrainingSet, option


class Softmax(Classifier):
    """The softmax of a network's logits."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Log-softmax ``[n, classes]``."""
        logits: Tensor = self.network(images)
        return logits.float().log_softmax(1)


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
