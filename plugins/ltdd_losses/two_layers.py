"""Two last layers on one body: the cumulative learning of GLMC (Du et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ltdd_core import (
    BaseOptions,
    Classifier,
    ClassifierHead,
    Loss,
    Network,
    Softmax,
    Trainer,
    TrainingSet,
    cross_entropy,
    option,
)
from ltdd_losses.losses import power_weights, weighted_cross_entropy


class CumulativeHead(ClassifierHead):
    """Two last layers, the second with weighted classes; the loss moves from the first to the second (GLMC).

    Of a set with soft labels only the second layer learns.  The paper mixes two views of a batch and makes their
    features alike; here each batch has one view, mixed as the training says.
    """

    title = "GLMC"

    class Options(BaseOptions):
        """The class weights."""

        q: float = option(
            1.2, "exponent q of the class weights n_c^-q of the second layer", source="GLMC, public code", ge=0
        )

    def fit(self, sets: Sequence[TrainingSet], trainer: Trainer) -> Classifier:
        """Train both layers on the one set; the second one answers."""
        data = sets[0]
        classes, weights = data.classes, power_weights(data.counts(), self.options.q)
        if data.soft_labels is not None or data.view_labels is not None:
            loss = weighted_cross_entropy(weights)
            return Softmax(trainer.train(data, outputs=classes, purpose="GLMC's second layer", loss=loss))

        def loss_at(progress: float) -> Loss:
            return cumulative(weights, 1 - progress**2)

        return Softmax(SecondLayer(trainer.train(data, outputs=2 * classes, purpose="GLMC", loss_at=loss_at)))


def cumulative(weights: Tensor, first: float) -> Loss:
    """The loss a CE(z) - (1 - a) w_y log softmax(z')_y, of logits ``[n, 2 C]`` that are z and z' side by side.

    Args:
        weights: w ``[C]``.
        first: a, from 1 in the first epoch to 0 in the last.
    """
    weighted = weighted_cross_entropy(weights)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        z, z_second = logits.chunk(2, dim=1)
        return first * cross_entropy(z, labels) + (1 - first) * weighted(z_second, labels)

    return loss


class SecondLayer(Network):
    """A trained network with two last layers side by side, without the first of them.

    Args:
        network: frozen, with an even number of outputs.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        both = network.linear
        self.body = network
        # Without initial weights, which would be drawn from the global generator.
        self.linear = nn.utils.skip_init(nn.Linear, both.in_features, both.out_features // 2, device=both.weight.device)
        self.linear.load_state_dict({name: value.chunk(2)[1] for name, value in both.state_dict().items()})
        self.eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` of the body."""
        return self.body.embed(images)
