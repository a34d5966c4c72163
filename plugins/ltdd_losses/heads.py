"""Heads with one network and a loss for long-tailed sets; class counts are those of the set that trains the head.

A class-balanced sampler and these losses do the same work: together they favour the tail twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    CosineLinear,
    Loss,
    Network,
    Softmax,
    Storable,
    Trainer,
    TrainingSet,
    option,
)
from ltdd_losses.losses import (
    effective_number_weights,
    focal,
    log_prior,
    margin_loss,
    margins,
    prior_adjusted,
    weighted_cross_entropy,
)


class ClassBalancedHead(ClassifierHead):
    """Cross-entropy, or focal loss, with classes weighted by their effective number of images.

    The weights may be deferred (DRW, Cao et al., NeurIPS 2019): until then all classes have the same.
    """

    title = "class-balanced"

    class Options(BaseOptions):
        """The class weights and the loss."""

        beta: float = option(
            0.9999,
            "beta of the class weights: 0 gives equal weights, and values near 1 give weights close to 1 / n_c",
            source="Cui et al. 2019",
            ge=0,
            lt=1,
        )
        gamma: float = option(
            0.0, "exponent gamma of the focal loss; 0 is cross-entropy", source="Cui et al. 2019", ge=0
        )
        deferred: float = option(
            0.0,
            "share of the epochs before the classes are weighted: 0, weights from the start; 0.8, deferred "
            "re-weighting (DRW) as its paper has it",
            source="Cui et al. 2019",
            ge=0,
            lt=1,
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        data, options = sets[0], self.options
        counts = data.counts()

        def loss_of(beta: float) -> Loss:
            weights = effective_number_weights(counts, beta)
            return focal(options.gamma, weights) if options.gamma else weighted_cross_entropy(weights)

        def loss_at(progress: float) -> Loss:
            return loss_of(options.beta if progress >= options.deferred else 0.0)

        how: dict[str, Any] = {"loss_at": loss_at} if options.deferred else {"loss": loss_of(options.beta)}
        return Softmax(trainer.train(data, outputs=data.classes, purpose="class-balanced loss", **how))


class FocalHead(ClassifierHead):
    """Focal loss: images that the network classifies well already count less."""

    title = "focal"

    class Options(BaseOptions):
        """The exponent."""

        gamma: float = option(
            1.0, "exponent gamma of the focal loss; 0 is cross-entropy", source="LDAM-DRW, public code", ge=0
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        loss = focal(self.options.gamma)
        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="focal loss", loss=loss))


class BalancedSoftmaxHead(ClassifierHead):
    """Cross-entropy of the logits plus log n_c in training; the plain logits afterwards."""

    title = "balanced softmax"

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        loss = prior_adjusted(sets[0].counts(), 1.0)
        return Softmax(trainer.train(sets[0], outputs=sets[0].classes, purpose="balanced softmax", loss=loss))


class LogitAdjustmentHead(ClassifierHead):
    """Logits shifted by the log of the class frequencies, in training or afterwards (Menon et al., ICLR 2021)."""

    title = "logit adjustment"

    class Options(BaseOptions):
        """Size and time of the adjustment."""

        tau: float = option(
            1.0,
            "factor tau of log pi_c; with 1 the loss is consistent for the balanced error",
            source="Menon et al. 2021",
        )
        when: Literal["training", "afterwards"] = option(
            "training",
            "time of the adjustment: tau log pi_c is added to the logits in training, or subtracted afterwards",
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set, or shift the logits of the plain classifier."""
        data, tau = sets[0], self.options.tau
        if self.options.when == "training":
            loss = prior_adjusted(data.counts(), tau)
            return Softmax(trainer.train(data, outputs=data.classes, purpose="logit adjustment", loss=loss))
        plain = trainer.train(data, outputs=data.classes)
        return Softmax(Shifted(plain, tau * log_prior(data.counts())))


class Shifted(Storable):
    """The logits of a network minus a number for each class.

    Args:
        network: gives logits ``[n, classes]``.
        shift: the numbers, ``[classes]``.
    """

    def __init__(self, network: Network, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.shift = nn.Buffer(shift)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        z: Tensor = self.network(images)
        return z - self.shift.to(z)


class MarginHead(ClassifierHead):
    """LDAM with deferred re-weighting (Cao et al., NeurIPS 2019): cosine logits, larger margins for rare classes."""

    title = "LDAM-DRW"

    class Options(BaseOptions):
        """Margins, and the class weights of the last epochs."""

        margin: float = option(
            0.5, "margin of the rarest class, in units of cosines", source="LDAM-DRW, public code", gt=0
        )
        scale: float = option(30.0, "scale of the cosine logits", source="LDAM-DRW, public code", gt=0)
        deferred: float = option(
            0.8,
            "share of the epochs before the classes are weighted; 1 means no weights at all",
            source="LDAM-DRW, public code",
            ge=0,
            le=1,
        )
        beta: float = option(
            0.9999, "beta of the class weights in the weighted phase", source="LDAM-DRW, public code", ge=0, lt=1
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train on the one set."""
        data, options = sets[0], self.options
        counts = data.counts()
        margin = margins(counts, options.margin)

        def loss_at(progress: float) -> Loss:
            begun = options.deferred < 1 and progress >= options.deferred
            weights = effective_number_weights(counts, options.beta if begun else 0.0)
            return margin_loss(margin, options.scale, weights)

        def layer(features: int, outputs: int) -> nn.Linear:
            return CosineLinear(features, outputs, options.scale)

        network = trainer.train(data, outputs=data.classes, purpose="LDAM", loss_at=loss_at, layer=layer)
        return Softmax(network)
