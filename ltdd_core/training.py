"""Train a network on a set of images: the one loop behind every stage of every classifier."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltdd_core.augment import Augmentation
from ltdd_core.errors import RunFailed
from ltdd_core.interfaces import Network, TrainingSet
from ltdd_core.mixup import mixed
from ltdd_core.networks import Faster, MakeNetwork
from ltdd_core.options import BaseOptions, option
from ltdd_core.seeding import generator, global_generator

Loss = Callable[[Tensor, Tensor], Tensor]
"""``(logits [n, outputs], labels [n] or [n, outputs]) -> scalar``, the mean over the images of a loss of each."""
LossSchedule = Callable[[float], Loss]
"""``progress -> loss`` of an epoch; progress goes from 0 in the first epoch to 1 in the last."""
LastLayer = Callable[[int, int], nn.Linear]
"""``(features, outputs) -> last layer`` of a network; it draws initial weights as ``torch.nn`` does."""

CLASSES = "classes"
"""What is trained, unless a head says otherwise."""


class TrainingOptions(BaseOptions):
    """How one network is trained.  SGD as in the evaluation of DC's public code."""

    epochs: int = option(300, "passes over the images", source="DC, public code: 300, or 1000 with DSA", ge=1)
    lr: float = option(0.01, "initial learning rate", source="DC, public code", gt=0)
    momentum: float = option(0.9, "momentum of SGD", source="DC, public code", ge=0, lt=1)
    weight_decay: float = option(5e-4, "weight decay", source="DC, public code", ge=0)
    batch: int = option(256, "images a step", source="DC, public code", ge=1)
    schedule: Literal["step", "cosine", "constant"] = option(
        "step",
        "learning rate: x0.1 from epoch epochs // 2 + 1 on, cosine to 0, or constant",
        source="DC, public code",
    )
    mixup: float = option(
        0.0,
        "alpha of mixup: a step sees pairs of its images mixed, in parts drawn from Beta(alpha, alpha); 0 for none",
        source="Zhang et al., ICLR 2018",
        ge=0,
    )


def train(
    network: Network,
    data: TrainingSet,
    options: TrainingOptions,
    *,
    loss: Loss,
    loss_at: LossSchedule | None = None,
    augmentation: Augmentation,
    seed: int,
    purpose: str,
    device: torch.device,
    keep_going: Callable[[], None] = lambda: None,
    start: int = 0,
    after_epoch: Callable[[int], None] = lambda done: None,
    chunk: int | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> Network:
    """Train what is not frozen of ``network`` in place on ``data`` and return it in eval mode, frozen.

    Args:
        loss: of logits and the labels of ``data``.
        loss_at: instead of ``loss`` where it changes from epoch to epoch.
        purpose: names the random draws; the same seed and purpose give the same network.
        keep_going: called before every step; raises to stop.
        start: epochs that ``network`` has behind it.  What SGD remembers of them is gone, so momentum must be 0.
        after_epoch: told how many epochs are done, after each.
        chunk: images at once; the gradients of a batch add up to the same.  All of them unless given, and
            where batch normalisation looks at the whole batch.
        precision: ``bf16`` computes features in mixed precision; the weights stay in float32.
        compiled: compile the network.

    Raises:
        RunFailed: the weights are no longer finite.
    """
    if start and options.momentum:
        raise ValueError("training with momentum cannot go on from the weights alone")
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)
    shape, faster = _shape(data), Faster(network, precision, compiled)
    batch_norm = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    at_once = options.batch if batch_norm or chunk is None else chunk
    for epoch in range(start, options.epochs):
        optimizer.param_groups[0]["lr"] = options.lr * _factor(options, epoch)
        draws, progress = generator(seed, f"{purpose}: epoch", epoch), epoch / max(1, options.epochs - 1)
        current = loss if loss_at is None else loss_at(progress)
        with global_generator(seed, f"{purpose}: dropout", epoch):
            # A sampler may have drawn none of the few images of a stage.
            for indices in filter(len, _epoch_order(data, progress, draws).split(options.batch)):
                keep_going()
                _train_mode(network, batch_norm, len(indices))
                images, labels = data.batch(indices, device)
                images = augmentation.draw(shape, draws, len(images))(images)
                images, labels, own_loss = mixed(images, labels, current, options.mixup, draws)
                optimizer.zero_grad(set_to_none=True)
                backward_in_chunks(faster, images, labels, own_loss, at_once)
                optimizer.step()
        _check_finite(learning, f"training of {purpose} diverged in epoch {epoch + 1}", options.lr)
        after_epoch(epoch + 1)
    return network.eval().requires_grad_(False)


def _check_finite(parameters: Sequence[Tensor], what: str, lr: float) -> None:
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise RunFailed(f"{what}: its weights are not finite. Use a smaller learning rate than {lr:g}.")


def backward_in_chunks(network: Network, images: Tensor, labels: Tensor, loss: Loss, chunk: int) -> None:
    """Add the gradient of the loss of a batch to that of the parameters, ``chunk`` images at a time.

    A few dozen images at a time stay in a processor's cache between layers, which makes a step a third faster
    on a CPU.
    """
    for part, own in zip(images.split(chunk), labels.split(chunk), strict=True):
        (loss(network(part), own) * (len(part) / len(images))).backward()


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


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy with hard labels int64 ``[n]`` or soft ones ``[n, outputs]``."""
    return F.cross_entropy(logits, labels)


def _factor(options: TrainingOptions, epoch: int) -> float:
    """What the initial learning rate is multiplied by."""
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / options.epochs))
    if options.schedule == "step" and epoch > options.epochs // 2:
        return 0.1
    return 1.0


def _train_mode(network: Network, batch_norm: Sequence[nn.Module], images: int) -> None:
    """Training mode; batch normalisation of a single image, which has no variance, stays with its averages."""
    network.train()
    if images == 1:
        for layer in batch_norm:
            layer.eval()


def _epoch_order(data: TrainingSet, progress: float, draws: torch.Generator) -> Tensor:
    if data.order is None:
        return torch.randperm(len(data), generator=draws)
    return data.order(progress, draws)


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
                network = self.make(_shape(data), outputs)
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
        return Faster(trained, precision, compiled).eval() if compiled or precision != "fp32" else trained

    def features(self, network: Network, data: TrainingSet) -> Tensor:
        """Features ``[N, D]`` of all images of a set, in float32 on the CPU, without augmentation."""
        parts = []
        with torch.no_grad():
            for indices in torch.arange(len(data)).split(self.chunk):
                self.keep_going()
                parts.append(network.embed(data.batch(indices, self.device)[0]).float().cpu())
        return torch.cat(parts)


def _shape(data: TrainingSet) -> tuple[int, int, int]:
    channels, height, width = data.images.shape[1:]
    return int(channels), int(height), int(width)
