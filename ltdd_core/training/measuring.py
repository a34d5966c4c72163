"""What a step of a training takes on this machine, measured before the training begins."""

from __future__ import annotations

import math
import time

import torch

from ltdd_core.seeding import generator, global_generator
from ltdd_core.training.loop import gradient_in_chunks
from ltdd_core.training.losses import cross_entropy
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer

WARM_UP = 8  # images; the first pass of a network takes longer
LONG = 1.0  # seconds of a step that is not measured twice


def seconds_of_training(
    trainer: Trainer, data: TrainingSet, options: TrainingOptions, size: int | None = None
) -> float:
    """A guess of what a training takes.

    Args:
        trainer: makes its network and its augmentation.
        data: images to measure on; no random number of the run is used.
        options: of the training.
        size: images of the set that is trained on; those of ``data`` unless given.
    """
    size = len(data) if size is None else size
    return options.epochs * math.ceil(size / options.batch) * seconds_per_step(trainer, data, options, size)


def seconds_per_step(trainer: Trainer, data: TrainingSet, options: TrainingOptions, size: int) -> float:
    """What a step of a training takes now; the arguments are those of :func:`seconds_of_training`."""
    images_at_once = math.ceil(size / math.ceil(size / options.batch))
    places = torch.arange(images_at_once) % len(data)
    images, labels = data.batch(places, trainer.device)
    with global_generator(0, "a network to measure with"):
        network = trainer.make(data.image_shape, data.classes).to(trainer.device).train()
    parameters = list(network.parameters())
    gradient_in_chunks(network, parameters, images[:WARM_UP], labels[:WARM_UP], cross_entropy, WARM_UP)
    best = math.inf
    for _ in range(2):
        trainer.keep_going()
        began = time.monotonic()
        seen = trainer.augmentation.apply(images, generator(0, "augmentation to measure with"), data.normalisation)
        gradient = gradient_in_chunks(network, parameters, seen, labels, cross_entropy, trainer.chunk)
        float(gradient[0].sum())  # waits for the device
        best = min(best, time.monotonic() - began)
        if best > LONG:
            break
    return best
