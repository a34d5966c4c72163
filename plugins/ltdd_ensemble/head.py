"""The mean of the log-probabilities of several networks that differ in their initial weights and draws.

It is what a classifier of several networks has to be compared with: a gain that two such networks give as well is not
owed to what they do differently (Lakshminarayanan et al., NeurIPS 2017, average probabilities; the mean of logarithms
is the pool of the two-stage head).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ltdd_core import BaseOptions, Classifier, ClassifierHead, InputError, Named, Trainer, TrainingSet, name_of, option


class Averaged(Classifier):
    """log P(c) = mean_i log p_i(c) - log Z."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        self.members = members

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Float32 ``[n, classes]``."""
        every = torch.stack([member.log_probabilities(images) for member in self.members])
        return every.mean(0).log_softmax(1)


class EnsembleHead(ClassifierHead):
    """Several networks of one head, averaged."""

    title = "ensemble"

    class Options(BaseOptions):
        """Of what, and how many."""

        of: Named = option("linear", "head of each member", component="head")
        members: int = option(2, "number of members", ge=2)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train each on the one set; the first is the head alone.

        Raises:
            InputError: the members have stages of their own.
        """
        head: ClassifierHead = trainer.component("head", self.options.of)
        if head.stages != 1:
            raise InputError(
                f"head.of={name_of(self.options.of)} has stages of its own, and a member is one classifier."
            )
        others = (trainer.part(f"member {index}") for index in range(2, self.options.members + 1))
        return Averaged([head.fit(sets, member) for member in (trainer, *others)])
