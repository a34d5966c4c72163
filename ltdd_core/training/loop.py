"""Train a network on a set of images: the one loop behind every stage of every classifier."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ltdd_core import ranks
from ltdd_core.errors import InputError, RunFailed, reason_of
from ltdd_core.networks.compiled import CompiledNetwork
from ltdd_core.networks.job import ADVICE, Epoch, Start
from ltdd_core.networks.network import Network
from ltdd_core.networks.state import load_state_of, state_of
from ltdd_core.seeding import generator, global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import TrainingAugmentation
from ltdd_core.training.losses import Loss, LossSchedule
from ltdd_core.training.mixing import mixed
from ltdd_core.training.objective import Objective, objective_of, of_labels
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels

BEGINNING = Start()


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
    if start.done and not start.state and options.remembers:
        raise ValueError("training with momentum, AdamW or an average cannot resume from the weights alone")
    epochs = options.passes(len(data), data.name)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = _optimizer(options, learning, fused=device.type == "cuda")
    average = _Average(network, options.average) if options.average else None
    parts = {"network": network, "optimizer": optimizer, "average": average and average.parts}
    if start.state:
        _resume(parts, start.state)
    faster = CompiledNetwork(network, precision, compiled)
    batch_norm = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    at_once = options.batch if batch_norm or chunk is None else chunk
    shared = not batch_norm and not any(isinstance(layer, nn.modules.dropout._DropoutNd) for layer in network.modules())
    for epoch in range(start.done, epochs):
        optimizer.param_groups[0]["lr"] = options.lr * _factor(options, epoch, epochs)
        draws, progress = generator(seed, f"{purpose}: epoch", epoch), progress_at(epoch, epochs)
        current = loss if loss_at is None else loss_at(progress)
        losses, seen = torch.zeros((), device=device), 0
        with global_generator(seed, f"{purpose}: dropout", epoch):
            for images, objective in _epoch(data, options, augmentation, current, progress, draws, device, chunk):
                keep_going()
                _train_mode(network, batch_norm, len(images))
                gradient, of_batch = _gradient(faster, learning, images, objective, at_once, shared=shared)
                _step(optimizer, learning, gradient)
                losses, seen = losses + of_batch * len(images), seen + len(images)
                if average is not None:
                    average.update()
        _check_finite(learning, f"training of {purpose} diverged in epoch {epoch + 1}", options.lr)
        after_epoch(Epoch(epoch + 1, float(losses) / max(1, seen), lambda: state_of(parts)))
    if average is not None:
        average.fill()
    optimizer.zero_grad()  # a store keeps the network, and need not keep its last gradient
    return network.eval().requires_grad_(False)


def _optimizer(options: TrainingOptions, parameters: Sequence[nn.Parameter], *, fused: bool) -> torch.optim.Optimizer:
    lr, decay = options.lr, options.weight_decay
    if options.optimizer == "adamw":
        betas = (options.momentum, 0.999)
        return torch.optim.AdamW(parameters, lr=lr, betas=betas, weight_decay=decay, fused=fused)
    return torch.optim.SGD(parameters, lr=lr, momentum=options.momentum, weight_decay=decay, fused=fused)


class _Average:
    """The moving average of all weights and buffers that are numbers with a fraction; it begins with the first step."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay, self._steps = decay, torch.zeros((), dtype=torch.long)
        self._current = dict(self._of(network))  # steps change these tensors and put no others in their place
        self._values = {name: value.clone() for name, value in self._current.items()}

    @property
    def parts(self) -> dict[str, Any]:
        """What it remembers."""
        return {"steps": self._steps, "values": self._values}

    def update(self) -> None:
        """After a step.  Of the first steps it is the plain average, as long as that forgets faster."""
        self._steps += 1
        steps = int(self._steps)
        kept = min(self._decay, (steps - 1) / steps)
        get_ema_multi_avg_fn(kept)(list(self._values.values()), list(self._current.values()), steps)

    def fill(self) -> None:
        """Make the network what the average is."""
        with torch.no_grad():
            for name, value in self._current.items():
                value.copy_(self._values[name])

    @staticmethod
    def _of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in network.state_dict().items() if value.is_floating_point())


def _resume(parts: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    try:
        load_state_of(parts, state)
    except (KeyError, RuntimeError) as error:
        raise InputError(f"the state of an unfinished training does not fit: {reason_of(error)}; {ADVICE}.") from error


def _step(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradient: Sequence[Tensor]) -> None:
    for parameter, slope in zip(parameters, gradient, strict=True):
        parameter.grad = slope
    optimizer.step()


def _epoch(
    data: TrainingSet,
    options: TrainingOptions,
    augmentation: Augmentation | TrainingAugmentation,
    loss: Loss,
    progress: float,
    draws: torch.Generator,
    device: torch.device,
    chunk: int | None,
) -> Iterator[tuple[Tensor, Objective]]:
    """The batches of an epoch, augmented and mixed, each with what it lowers."""
    order = torch.randperm(len(data), generator=draws) if data.order is None else data.order(progress, draws)
    some = filter(len, order.split(options.batch))  # a sampler may have drawn none of a stage's few images
    for indices, (images, labels) in data.batches(some, device):
        images = augmentation.apply(images, draws, data.normalisation)
        images, mix = mixed(images, options.mixup, options.cutmix, draws)
        of_views = data.view_labels is not None  # of the images as they are now, so that no labels need to be mixed
        soft: SoftLabels | None = None
        if data.view_labels is not None:
            soft = SoftLabels.joined([data.view_labels(part) for part in images.split(chunk or len(images))])
        elif data.soft_labels is not None:
            soft = data.soft_labels[indices].to(device)
        yield images, objective_of(loss, labels, soft, mix, options, data.classes, of_views=of_views)


def _check_finite(parameters: Sequence[Tensor], subject: str, lr: float) -> None:
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise RunFailed(f"{subject}: its weights are not finite. Use a smaller learning rate than {lr:g}.")


def gradient_in_chunks(
    network: Network, parameters: Sequence[Tensor], images: Tensor, labels: Tensor, loss: Loss, chunk: int
) -> tuple[Tensor, ...]:
    """The gradient of the loss of a batch in some parameters, at most ``chunk`` images at a time.

    A few dozen images at a time stay in a processor's cache between layers, which makes a step a third faster on a
    CPU.  The parts are of almost equal size, and their shares add up to the gradient of the whole batch as long as the
    network has no batch statistics, or frozen ones.

    Args:
        network: gives logits.
        parameters: of the network, in any order.
        images: float ``[n, C, H, W]``.
        labels: ``[n]`` or ``[n, outputs]``.
        loss: of logits and labels.
        chunk: images at once, at least 1.

    Returns:
        A tensor for each parameter, in its shape; zeros where the loss does not depend on it.
    """
    return _gradient(network, parameters, images, of_labels(loss, labels), chunk, shared=False)[0]


def _gradient(
    network: Network, parameters: Sequence[Tensor], images: Tensor, objective: Objective, chunk: int, *, shared: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """As :func:`gradient_in_chunks`, of an objective; and the objective itself.

    Args:
        shared: whether the processes of a run may share the images, each of which goes through the network for itself.
    """
    every = torch.arange(len(images), device=images.device)
    shared = shared and len(images) >= ranks.LEAST_SHARED * ranks.count() > ranks.LEAST_SHARED
    own = every[ranks.share_of(len(images))] if shared else every
    count = math.ceil(len(own) / chunk)
    total: tuple[Tensor, ...] = ()
    value = torch.zeros((), device=images.device)
    for rows in own.tensor_split(count):
        part = objective(network(images if len(rows) == len(images) else images[rows]), rows)
        share = torch.autograd.grad(part, parameters, materialize_grads=True)
        total, value = tuple(map(torch.add, total, share)) if total else share, value + part.detach()
    if shared:
        ranks.summed_over_processes(*total, value)
    return total, value


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


def _train_mode(network: Network, batch_norm: Sequence[nn.Module], images: int) -> None:
    """Training mode; batch normalisation of a single image, which has no variance, stays with its averages."""
    network.train()
    if images == 1:
        for layer in batch_norm:
            layer.eval()
