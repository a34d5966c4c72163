"""The mean of the log-probabilities of several networks that differ in their initial weights and draws.

A classifier that has several networks has to be compared with it: an ensemble of equal networks is better than one
network already.  Lakshminarayanan et al., NeurIPS 2017, average probabilities; the two-stage head averages their
logarithms, and so does this head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ltdd_core import BaseOptions, Classifier, ClassifierHead, InputError, Named, Trainer, TrainingSet, name_of, option


class Averaged(Classifier):
    """log P(c) = mean_i log p_i(c) - log Z."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def log_probabilities(self, images: Tensor) -> Tensor:
        """Float32 ``[n, classes]``."""
        log_p = torch.stack([member(images) for member in self.members])
        return log_p.mean(0).log_softmax(1)


class EnsembleHead(ClassifierHead):
    """The mean of the log-probabilities of several networks that are trained with the same head."""

    title = "ensemble"

    class Options(BaseOptions):
        """The members of the ensemble."""

        of: Named = option("linear", "head that trains each network of the ensemble", component="head")
        members: int = option(2, "number of networks in the ensemble", ge=2, le=1000)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train every member on the one set; the first member is what the head gives without an ensemble.

        Raises:
            InputError: the members have stages of their own.
        """
        head: ClassifierHead = trainer.component("head", self.options.of)
        if head.stages != 1:
            raise InputError(
                f"head.of={name_of(self.options.of)} has stages of its own, and a member is one classifier."
            )
        more_members = (
            trainer.part(f"member {index}", validation=trainer.validation)
            for index in range(2, self.options.members + 1)
        )
        return Averaged([head.fit(sets, member) for member in (trainer, *more_members)])
