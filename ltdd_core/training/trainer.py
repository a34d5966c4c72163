"""The trainer that classifier heads are given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ltdd_core.errors import RunFailed
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.network import MakeNetwork, Network
from ltdd_core.seeding import global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.loop import train
from ltdd_core.training.losses import Loss, LossSchedule, cross_entropy
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet

LastLayer = Callable[[int, int], nn.Linear]
"""``(features, outputs) -> last layer`` of a network; it draws initial weights as ``torch.nn`` does."""


CLASSES = "classes"
"""What is trained, unless a head says otherwise."""


class Relayered(Network):
    """A frozen network under another last layer, which learns.

    Args:
        body: gives the features.
        linear: the last layer.
    """

    def __init__(self, body: Network, linear: nn.Linear) -> None:
        super().__init__()
        self.body, self.linear = body.requires_grad_(False), linear

    def train(self, mode: bool = True) -> Relayered:
        """Only the last layer has a training mode: batch normalisation of the body keeps its averages."""
        super().train(mode)
        self.body.eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` of the body."""
        with torch.no_grad():
            return self.body.embed(images)


def _no_components(kind: str, named: str | Mapping[str, Any]) -> Any:
    raise ValueError(f"this trainer was made without a way to find a {kind}")


class Trainer:
    """What a classifier head trains with: the network of the run, its options for each set, its seed.

    Training the same thing twice returns the network of the first time: a two-stage head that needs the
    plain classifier to find its groups shares it with the table's first row.
    """

    component: Callable[[str, str | Mapping[str, Any]], Any]
    """``component("head", "cosine")``, or with options, ``{"name": "cosine", "scale": 10}``: another component.

    Raises:
        InputError: an unknown name or option.
    """

    def __init__(
        self,
        make: MakeNetwork,
        options: dict[str, TrainingOptions],
        augmentation: Augmentation,
        *,
        seed: int,
        device: torch.device,
        chunk: int,
        precision: str = "fp32",
        compiled: bool = False,
        keep_going: Callable[[], None] = lambda: None,
        started: Callable[[str], None] = lambda purpose: None,
        component: Callable[[str, str | Mapping[str, Any]], Any] = _no_components,
    ) -> None:
        self.make, self.options, self.augmentation = make, options, augmentation
        self.seed, self.device, self.chunk = seed, device, chunk
        self.precision, self.compiled = precision, compiled
        self.keep_going, self._started, self.component = keep_going, started, component
        self._trained: dict[tuple[str, str, bool], Network] = {}
        self._part: str | None = None

    def with_options(self, options: dict[str, TrainingOptions]) -> Trainer:
        """The same trainer, which knows what is trained already; options of those sets must not differ."""
        other = copy.copy(self)
        other.options = options
        return other

    def with_augmentation(self, augmentation: Augmentation) -> Trainer:
        """A trainer that differs in this, and so knows nothing that is trained."""
        other = copy.copy(self)
        other.augmentation, other._trained = augmentation, {}
        return other

    def part(self, name: str | None, decided_by: Mapping[str, Any] | None = None) -> Trainer:
        """The same trainer for a part of a classifier, such as one of its stages.

        What is trained for ``"classes"`` in it is trained for ``name``, so that a head can train that part as
        if it were all of a classifier.

        Args:
            name: of the part; within a classifier no two parts have the same.  None: what is trained keeps its names,
                so that a stage that is a classifier of its own is the same network as that classifier alone.
            decided_by: what decides losses and layers of the part, as JSON, where other options of the classifier's
                head do not: a grid then trains the part once for all heads that differ in those only.
        """
        part = copy.copy(self)
        if name is not None:
            part._part = name if self._part is None else f"{self._part}, {name}"
        return part

    def train(
        self,
        data: TrainingSet,
        *,
        outputs: int,
        purpose: str = CLASSES,
        loss: Loss = cross_entropy,
        loss_at: LossSchedule | None = None,
        layer: LastLayer | None = None,
    ) -> Network:
        """A network with ``outputs`` logits, trained on ``data``.

        Args:
            purpose: names what is trained; with the name of the set it is the key under which the network is
                kept, so different losses, layers and targets need different purposes; a plain network is never
                taken for one with a loss or a layer of its own.
            loss: of logits and labels.
            loss_at: instead of ``loss`` where it changes from epoch to epoch.
            layer: makes the last layer, where it is not the network's own.

        Raises:
            RunFailed: training diverged.
        """
        purpose = self._full(purpose)
        plain = loss is cross_entropy and loss_at is None and layer is None
        key = data.name, purpose, plain
        if key not in self._trained:
            self._started(f"{purpose} on the {data.name} set")
            with global_generator(self.seed, f"weights for {purpose} on {data.name}"):
                network = self.make(data.image_shape, outputs)
                if layer is not None:
                    network.linear = layer(network.linear.in_features, outputs)
            options, advice = self.options[data.name], f"training.{data.name}.lr"
            own = network.to(self.device)
            self._trained[key] = self._train(own, data, options, purpose, loss, loss_at, advice)
        return self._trained[key]

    def retrain(
        self,
        network: Network,
        data: TrainingSet,
        options: TrainingOptions,
        *,
        layer: LastLayer,
        purpose: str,
        loss: Loss = cross_entropy,
    ) -> Network:
        """A trained network, which stays as it is, under a new last layer that is trained alone.

        Args:
            network: from :meth:`train`.
            options: of this training; the head's own.
            layer: makes the last layer.
            purpose: names what is trained, as in :meth:`train`.

        Raises:
            RunFailed: training diverged.
        """
        purpose = self._full(purpose)
        key = data.name, purpose, False
        if key not in self._trained:
            self._started(f"{purpose} on the {data.name} set")
            with global_generator(self.seed, f"weights for {purpose} on {data.name}"):
                relayered = Relayered(network, layer(network.linear.in_features, network.linear.out_features))
            own = relayered.to(self.device)
            self._trained[key] = self._train(own, data, options, purpose, loss, None, "head.lr")
        return self._trained[key]

    def _full(self, purpose: str) -> str:
        if self._part is None:
            return purpose
        return self._part if purpose == CLASSES else f"{self._part}: {purpose}"

    def _train(
        self,
        network: Network,
        data: TrainingSet,
        options: TrainingOptions,
        purpose: str,
        loss: Loss,
        loss_at: LossSchedule | None,
        option: str,
    ) -> Network:
        # The body of a relayered network was made fast when it was trained.
        plain = isinstance(network, Relayered)
        precision, compiled = ("fp32", False) if plain else (self.precision, self.compiled)
        try:
            trained = train(
                network,
                data,
                options,
                loss=loss,
                loss_at=loss_at,
                augmentation=self.augmentation,
                seed=self.seed,
                purpose=f"{purpose} on {data.name}",
                device=self.device,
                keep_going=self.keep_going,
                chunk=self.chunk,
                precision=precision,
                compiled=compiled,
            )
        except RunFailed as error:
            advice = f"Use --set {option}=... (ltdd evaluate RUN takes it too, where a set is distilled already)."
            raise RunFailed(f"{error} {advice}") from error
        return CompiledNetwork(trained, precision, compiled).eval() if compiled or precision != "fp32" else trained

    def features(self, network: Network, data: TrainingSet) -> Tensor:
        """Features ``[N, D]`` of all images of a set, in float32 on the CPU, without augmentation."""
        parts = []
        with torch.no_grad():
            for indices in torch.arange(len(data)).split(self.chunk):
                self.keep_going()
                parts.append(network.embed(data.batch(indices, self.device)[0]).float().cpu())
        return torch.cat(parts)
