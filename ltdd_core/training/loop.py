"""Train a network on a set of images: the one loop behind every stage of every classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ltdd_core.errors import InputError, RunFailed, reason_of
from ltdd_core.networks.job import ADVICE, Epoch, Start
from ltdd_core.networks.network import Network
from ltdd_core.networks.state import load_state_of, state_of
from ltdd_core.seeding import generator, global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import TrainingAugmentation
from ltdd_core.training.losses import Loss, LossSchedule
from ltdd_core.training.mixing import mixed
from ltdd_core.training.models import Single, Stacked
from ltdd_core.training.objective import Objective, objective_of
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels

BEGINNING = Start()


@dataclass(frozen=True)
class Learner:
    """A network that is trained, and all of its training that is its own."""

    network: Network
    """On the device; its parameters that require gradients are trained."""
    data: TrainingSet
    """The images and their labels."""
    loss: Loss
    """Of logits and the labels of the data."""
    loss_at: LossSchedule | None
    """Instead of ``loss`` where it changes from epoch to epoch."""
    augmentation: Augmentation | TrainingAugmentation
    """Of the training images, a separate draw for each image."""
    seed: int
    """Of the order, the augmentation, mixup and dropout."""
    purpose: str
    """Names the random draws; the same seed and purpose give the same network."""
    start: Start = BEGINNING
    """Where it begins."""
    after_epoch: Callable[[Epoch], None] = lambda epoch: None
    """Told of each epoch at its end."""


class UnequalEpochs(Exception):
    """Samplers have drawn unequal numbers of images for networks that are trained at once."""


def train(
    network: Network,
    data: TrainingSet,
    options: TrainingOptions,
    *,
    loss: Loss,
    loss_at: LossSchedule | None = None,
    augmentation: Augmentation | TrainingAugmentation,
    seed: int,
    purpose: str,
    device: torch.device,
    keep_going: Callable[[], None] = lambda: None,
    start: Start = BEGINNING,
    after_epoch: Callable[[Epoch], None] = lambda epoch: None,
    chunk: int | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> Network:
    """Train what is not frozen of ``network`` in place on ``data`` and return it in eval mode, frozen.

    Args:
        network: on the device; its parameters that require gradients are trained.
        data: the images and their labels.
        options: epochs, learning rate and the rest of the training.
        loss: of logits and the labels of ``data``.
        loss_at: instead of ``loss`` where it changes from epoch to epoch.
        augmentation: of the training images, a separate draw for each image.
        seed: of the order, the augmentation, mixup and dropout.
        purpose: names the random draws; the same seed and purpose give the same network.
        device: where batches are put.
        keep_going: called before every step; raises to stop.
        start: where it begins.  Without the state of an earlier training there must be no momentum, AdamW or average,
            which would remember its epochs.
        after_epoch: told of each epoch at its end.
        chunk: images at once; the gradient of a batch is the same.  All unless given, or with batch normalisation.
        precision: ``bf16`` computes features in mixed precision; the weights stay in float32.
        compiled: compile the network.

    Raises:
        RunFailed: the weights are no longer finite.
        InputError: the state of an earlier training does not fit.
        ValueError: ``start`` has epochs and no state, and the training has momentum, AdamW or an average.
    """
    learner = Learner(network, data, loss, loss_at, augmentation, seed, purpose, start, after_epoch)
    at_once = options.batch if chunk is None else chunk
    model = Single(network, precision, compiled, at_once)
    train_model(model, [learner], options, device=device, keep_going=keep_going, chunk=chunk)
    return network


def train_together(
    learners: Sequence[Learner],
    options: TrainingOptions,
    *,
    device: torch.device,
    keep_going: Callable[[], None],
    chunk: int,
    precision: str,
) -> None:
    """Train several networks of one shape at once; each becomes what :func:`train` makes of it, up to rounding.

    Args:
        learners: two or more, on sets of the same size, with as many epochs behind them.  Their networks draw nothing
            in training, and differ in nothing but the values of parameters and buffers.
        options: of all of them.
        device: where batches are put.
        keep_going: called before every step; raises to stop.
        chunk: images at once, of all networks together.
        precision: as in :func:`train`.

    Raises:
        RunFailed: the weights of a network are no longer finite.
        InputError: the state of an earlier training does not fit.
        UnequalEpochs: the samplers have drawn more images for one network than for another.
    """
    model = Stacked([learner.network for learner in learners], precision, max(1, chunk // len(learners)))
    try:
        train_model(model, learners, options, device=device, keep_going=keep_going, chunk=chunk)
    finally:
        model.release()


def train_model(
    model: Single | Stacked,
    learners: Sequence[Learner],
    options: TrainingOptions,
    *,
    device: torch.device,
    keep_going: Callable[[], None],
    chunk: int | None,
) -> None:
    """The loop: train one network, or several as one model; see :func:`train` and :func:`train_together`."""
    first = learners[0]
    if first.start.done and not first.start.state and options.remembers:
        raise ValueError("training with momentum, AdamW or an average cannot resume from the weights alone")
    epochs = options.passes(len(first.data), first.data.name)
    optimizer = _optimizer(options, model.learning, fused=device.type == "cuda")
    average = Average(model.tensors(), options.average) if options.average else None
    if first.start.state:
        _resume(model, optimizer, average, learners)
    for epoch in range(first.start.done, epochs):
        optimizer.param_groups[0]["lr"] = options.lr * _factor(options, epoch, epochs)
        losses, seen = torch.zeros(len(learners), device=device), 0
        with global_generator(first.seed, f"{first.purpose}: dropout", epoch):
            for batch in _batches(learners, options, epoch, epochs, device, chunk):
                keep_going()
                images = len(batch[0][0])
                gradient, of_batch = model.gradient(batch)
                _step(optimizer, model.learning, gradient)
                losses, seen = losses + of_batch * images, seen + images
                if average is not None:
                    average.update()
        for learner, finite in zip(learners, model.finite(), strict=True):
            if not finite:
                raise _diverged(learner.purpose, epoch, options)
        means = (losses / max(1, seen)).tolist()
        for number, learner in enumerate(learners):
            state = partial(_state, model, number, optimizer, average)
            learner.after_epoch(Epoch(epoch + 1, means[number], state))
    if average is not None:
        average.fill()
    optimizer.zero_grad()  # a store keeps the network, and need not keep its last gradient
    for learner in learners:
        learner.network.eval().requires_grad_(False)


def _optimizer(options: TrainingOptions, parameters: Sequence[Tensor], *, fused: bool) -> torch.optim.Optimizer:
    lr, decay = options.lr, options.weight_decay
    if options.optimizer == "adamw":
        betas = (options.momentum, 0.999)
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=fused)
    return torch.optim.SGD(parameters, lr=lr, momentum=options.momentum, weight_decay=decay, fused=fused)


class Average:
    """The moving average of weights and buffers; it begins with the first step.

    Args:
        current: those of a network, by name; steps change these tensors and put no others in their place.
        decay: of the average.
    """

    def __init__(self, current: Mapping[str, Tensor], decay: float) -> None:
        self._decay, self._current = decay, current
        self.steps = torch.zeros((), dtype=torch.long)
        self.values = {name: value.clone() for name, value in current.items()}

    def update(self) -> None:
        """After a step.  Of the first steps it is the plain average, as long as that forgets faster."""
        self.steps += 1
        steps = int(self.steps)
        kept = min(self._decay, (steps - 1) / steps)
        get_ema_multi_avg_fn(kept)(list(self.values.values()), list(self._current.values()), steps)

    def fill(self) -> None:
        """Make the network what the average is."""
        with torch.no_grad():
            for name, value in self._current.items():
                value.copy_(self.values[name])


def _parts(model: Single | Stacked, number: int, optimizer: torch.optim.Optimizer, average: Average | None) -> Any:
    """All that the next epoch of a network of a model depends on."""
    remembered = None
    if average is not None:
        remembered = {"steps": average.steps, "values": model.of_one(average.values, number)}
    return {
        "network": model.networks[number],
        "optimizer": model.memory_of_one(optimizer, number),
        "average": remembered,
    }


def _state(
    model: Single | Stacked, number: int, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    return state_of(_parts(model, number, optimizer, average))


def _resume(
    model: Single | Stacked, optimizer: torch.optim.Optimizer, average: Average | None, learners: Sequence[Learner]
) -> None:
    states = [learner.start.state for learner in learners]
    try:
        load_state_of({"optimizer": optimizer}, model.joined_memory(states))
        for number, state in enumerate(states):
            load_state_of(_parts(model, number, optimizer, average), state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"the state of an unfinished training does not fit: {reason_of(error)}; {ADVICE}.") from error


def _step(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradient: Sequence[Tensor]) -> None:
    for parameter, slope in zip(parameters, gradient, strict=True):
        parameter.grad = slope
    optimizer.step()


def _batches(
    learners: Sequence[Learner],
    options: TrainingOptions,
    epoch: int,
    epochs: int,
    device: torch.device,
    chunk: int | None,
) -> Iterator[Sequence[tuple[Tensor, Objective]]]:
    """The batches of an epoch: for each step those of all networks, which have the same size."""
    progress = progress_at(epoch, epochs)
    draws = [generator(learner.seed, f"{learner.purpose}: epoch", epoch) for learner in learners]
    losses = [each.loss if each.loss_at is None else each.loss_at(progress) for each in learners]
    orders = [_order(learner.data, progress, own) for learner, own in zip(learners, draws, strict=True)]
    if len(set(map(len, orders))) > 1:
        raise UnequalEpochs
    gathered = (
        # A sampler may have drawn none of a stage's few images.
        learner.data.batches(filter(len, order.split(options.batch)), device)
        for learner, order in zip(learners, orders, strict=True)
    )
    for batch in zip(*gathered, strict=True):
        augmented = _augmented(learners, [images for _, (images, _) in batch], draws)
        yield [
            _seen(learner.data, options, indices, images, labels, loss, own, chunk)
            for learner, (indices, (_, labels)), images, loss, own in zip(
                learners, batch, augmented, losses, draws, strict=True
            )
        ]


def _order(data: TrainingSet, progress: float, draws: torch.Generator) -> Tensor:
    return torch.randperm(len(data), generator=draws) if data.order is None else data.order(progress, draws)


def _augmented(
    learners: Sequence[Learner], batches: Sequence[Tensor], draws: Sequence[torch.Generator]
) -> Sequence[Tensor]:
    """The images of each network, augmented with its own draws; at once where torch can."""
    first = learners[0].augmentation
    if len(learners) > 1 and isinstance(first, Augmentation):
        others = (learner.augmentation for learner in learners)
        if all(isinstance(other, Augmentation) and other.name == first.name for other in others):
            return first.apply_to_each(torch.stack(list(batches)), draws).unbind()
    return [
        learner.augmentation.apply(images, own, learner.data.normalisation)
        for learner, images, own in zip(learners, batches, draws, strict=True)
    ]


def _seen(
    data: TrainingSet,
    options: TrainingOptions,
    indices: Tensor,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    draws: torch.Generator,
    chunk: int | None,
) -> tuple[Tensor, Objective]:
    """A batch as a step of a network sees it, mixed, and what it lowers."""
    images, mix = mixed(images, options.mixup, options.cutmix, draws)
    of_views = data.view_labels is not None  # of the images as they are now, so that no labels need to be mixed
    soft: SoftLabels | None = None
    if data.view_labels is not None:
        soft = SoftLabels.joined([data.view_labels(part) for part in images.split(chunk or len(images))])
    elif data.soft_labels is not None:
        soft = data.soft_labels[indices].to(images.device)
    return images, objective_of(loss, labels, soft, mix, options, data.classes, of_views=of_views)


def _diverged(subject: str, epoch: int, options: TrainingOptions) -> RunFailed:
    return RunFailed(
        f"training of {subject} diverged in epoch {epoch + 1}: its weights are not finite. Use a smaller learning rate "
        f"than {options.lr:g}."
    )


def progress_at(epoch: int, epochs: int) -> float:
    """How far a training is, from 0 in the first epoch to 1 in the last.

    Where p * epochs is a whole number and p is below 1, the first epoch that reaches p is that one, counted from 0.
    """
    return epoch / max(1, epochs - 1)


def _factor(options: TrainingOptions, epoch: int, epochs: int) -> float:
    """What the initial learning rate is multiplied by in an epoch, counted from 0, of so many."""
    if epoch < options.warmup:
        return (epoch + 1) / (options.warmup + 1)
    after, left = epoch - options.warmup, epochs - options.warmup
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * after / left))
    if options.schedule == "constant":
        return 1.0
    if options.milestones is None:
        return options.gamma if after > left // 2 else 1.0
    progress = progress_at(epoch, epochs)
    return options.gamma ** sum(progress >= milestone for milestone in options.milestones)
