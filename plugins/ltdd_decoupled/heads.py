"""Decoupled training (Kang et al., "Decoupling Representation and Classifier", ICLR 2020, section 4).

All four start from the plain classifier that the run trains anyway, and change its last layer: cRT trains a new one
with class-balanced draws, LWS learns a scale for each class in the same way, tau-normalisation divides the weights of
each class by a power of their norm, and NCM does without a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    Network,
    Softmax,
    Storable,
    Trainer,
    TrainingOptions,
    TrainingSet,
    draw_by_class,
    generator,
    option,
)

TAUS = [tau / 10 for tau in range(21)]  # as the paper sweeps it
COSINE_SCALE = 16.0  # OLTR's public code; only how sharp probabilities are depends on it


class SecondStage(BaseOptions):
    """Training of the last layer: as in the paper, but with smaller batches.

    The paper has batches of 512 for a hundred thousand images.  With a few hundred images, they would leave the layer
    hardly trained after ten steps.
    """

    epochs: int = option(10, "number of epochs of the last layer", source="Kang et al. 2020", ge=1)
    lr: float = option(
        0.2, "initial learning rate of the last layer; it falls to 0 along a cosine", source="Kang et al. 2020", gt=0
    )
    batch: int = option(32, "number of images per step; Kang et al. use 512", ge=1)

    def training(self) -> TrainingOptions:
        """These options; momentum, weight decay and schedule are those of the paper."""
        return TrainingOptions(
            epochs=self.epochs, lr=self.lr, batch=self.batch, momentum=0.9, weight_decay=5e-4, schedule="cosine"
        )


class RetrainedHead(ClassifierHead):
    """cRT: a new last layer, trained with class-balanced draws on frozen features."""

    title = "cRT"
    Options = SecondStage

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train the plain classifier, then its new layer."""
        data = sets[0]
        plain = trainer.train(data, outputs=data.classes)
        options = self.options.training()
        return Softmax(trainer.retrain(plain, _balanced(data), options, layer=nn.Linear, purpose="cRT"))


class ScaledHead(ClassifierHead):
    """LWS: the logit of each class gets a scale, learned with class-balanced draws; the weights stay frozen."""

    title = "LWS"

    class Options(SecondStage):
        """Training of the scales."""

        epochs: int = option(5, "number of epochs of the scales", source="Kang et al. 2020", ge=1)

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train the plain classifier, then the scales."""
        data = sets[0]
        plain = trainer.train(data, outputs=data.classes)

        def layer(features: int, outputs: int) -> nn.Linear:
            return ScaledLinear(plain.linear)

        return Softmax(trainer.retrain(plain, _balanced(data), self.options.training(), layer=layer, purpose="LWS"))


class ScaledLinear(Storable, nn.Linear):
    """A trained layer, frozen, its logits times a scale for each class that is learned from 1 on."""

    def __init__(self, trained: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = trained.in_features, trained.out_features
        self.weight, self.bias = _frozen(trained.weight), _frozen(trained.bias)
        self.scale = nn.Parameter(torch.ones(trained.out_features))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[n, outputs]``."""
        return self.scale * super().forward(features)


class NormalisedHead(ClassifierHead):
    """Tau-normalisation: the weights are w_c / |w_c|^tau, without a bias; images that train nothing choose tau."""

    title = "tau-normalised"

    class Options(BaseOptions):
        """The choice of tau."""

        tau: float | None = option(
            None,
            "exponent of the weight norm; None: the best one on the validation images, or on images kept aside where "
            "there are none",
            ge=0,
        )
        kept_aside: float = option(
            0.2,
            "share of each class that is kept aside to choose tau where there are no validation images; one image at "
            "least stays in training",
            gt=0,
            lt=1,
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train the plain classifier and normalise it."""
        data, tau = sets[0], self.options.tau
        plain = trainer.train(data, outputs=data.classes)
        if tau is None and trainer.validation is not None:
            tau = _best_tau(plain, trainer.validation, trainer)
        elif tau is None:
            tau = self._chosen(data, trainer)
        return Softmax(Normalised(plain, tau))

    def _chosen(self, data: TrainingSet, trainer: Trainer) -> float:
        """The tau with the best mean accuracy over classes on the images kept aside; the smallest of equals.

        A separate network is trained without these images.  Its best tau is used for the plain classifier, which is
        trained with them.  Tau is 1 where no class can spare an image.
        """
        aside = kept_aside(data.labels, self.options.kept_aside, generator(trainer.seed, "kept aside"))
        if not aside.any():
            return 1.0
        network = trainer.train(data.only(~aside), outputs=data.classes, purpose="classes without those kept aside")
        return _best_tau(network, data.only(aside), trainer)


def _best_tau(network: Network, unseen: TrainingSet, trainer: Trainer) -> float:
    """The tau with the best mean accuracy over classes on images that the network has not seen."""
    features, labels = trainer.features(network, unseen), unseen.labels.cpu()
    return max(TAUS, key=lambda tau: _sum_of_recalls(features @ _weights(network, tau).cpu().T, labels))


class Normalised(Storable):
    """Logits of the features under weights w_c / |w_c|^tau, without a bias.

    Args:
        network: gives the features, and the weights w of its last layer.
        tau: the exponent.
    """

    def __init__(self, network: Network, tau: float) -> None:
        super().__init__()
        self.network = network
        self.weights = nn.Buffer(_weights(network, tau))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        return self.network.embed(images) @ self.weights.T


class NearestMeanHead(ClassifierHead):
    """NCM: an image gets the class whose mean feature is nearest to its feature."""

    title = "nearest class mean"

    class Options(BaseOptions):
        """The distance to the class means."""

        distance: Literal["cosine", "euclidean"] = option(
            "cosine",
            "distance to the class means; the logits are 16 cosines (cosine) or -d^2 / mean d^2 (euclidean)",
            source="Kang et al. 2020",
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train the plain classifier and take the class means of its features."""
        data = sets[0]
        plain = trainer.train(data, outputs=data.classes)
        features = trainer.features(plain, data)
        means = class_means_of(features, data.targets().cpu(), data.classes).to(trainer.device)
        if self.options.distance == "cosine":
            return Softmax(NearestDirection(plain, means))
        spread = (features.to(means) - means[data.labels.to(means.device)]).square().sum(1).mean()
        return Softmax(NearestPoint(plain, means, spread))


class NearestDirection(Storable):
    """Logits of 16 times the cosine between the features and the mean of each class.

    Args:
        network: gives features ``[n, D]``.
        means: ``[classes, D]``.
    """

    def __init__(self, network: Network, means: Tensor) -> None:
        super().__init__()
        self.network = network
        self.means = nn.Buffer(means)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        return COSINE_SCALE * F.normalize(self.network.embed(images)) @ F.normalize(self.means).T


class NearestPoint(Storable):
    """Logits of -d^2 / spread, with the distance d between the features and the mean of each class.

    Args:
        network: gives features ``[n, D]``.
        means: ``[classes, D]``.
        spread: mean d^2 of the training images to the mean of their class, a scalar.
    """

    def __init__(self, network: Network, means: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.network = network
        self.means = nn.Buffer(means)
        self.spread = nn.Buffer(spread)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[n, classes]``."""
        features = self.network.embed(images)
        # Not torch.cdist, which chooses its way by the number of images: no graph can be made of that.
        products = features @ self.means.T
        squares = features.square().sum(1, keepdim=True) - 2 * products + self.means.square().sum(1)
        return -squares / self.spread.clamp(min=1e-12)


def class_means_of(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature ``[classes, D]`` of each class; soft labels weight the images.  0 for a class without images."""
    weights = F.one_hot(labels, classes).to(features) if labels.dim() == 1 else labels.to(features)
    return weights.T @ features / weights.sum(0).clamp(min=1e-12)[:, None]


def kept_aside(labels: Tensor, share: float, draws: torch.Generator) -> Tensor:
    """Bool ``[N]``: round(share n_c) images of each class, but never its last one."""
    labels = labels.cpu()
    aside = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = torch.nonzero(labels == label).flatten()
        count = min(round(share * len(members)), len(members) - 1)
        aside[members[torch.randperm(len(members), generator=draws)[:count]]] = True
    return aside


def _weights(network: Network, tau: float) -> Tensor:
    weight = network.linear.weight.detach()
    return weight / weight.norm(dim=1, keepdim=True).clamp(min=1e-12) ** tau


def _sum_of_recalls(logits: Tensor, labels: Tensor) -> float:
    right = (logits.argmax(1) == labels).double()
    return sum(float(right[labels == label].mean()) for label in labels.unique().tolist())


def _balanced(data: TrainingSet) -> TrainingSet:
    """The same images with class-balanced draws."""
    labels = data.labels.cpu()
    weights = torch.ones(data.classes, dtype=torch.float64)

    def order(progress: float, draws: torch.Generator) -> Tensor:
        return draw_by_class(labels, weights, draws)

    return replace(data, order=order)


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().clone(), requires_grad=False)
