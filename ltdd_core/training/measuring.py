"""What a step of a training takes on this machine, measured before the training begins."""

from __future__ import annotations

import math
import statistics
import time

import torch

from ltdd_core import ranks
from ltdd_core.seeding import global_generator
from ltdd_core.training.fitting import check_step_fits
from ltdd_core.training.loop import train
from ltdd_core.training.losses import cross_entropy
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer

WARM_UP = 8  # images; the first pass of a network takes longer
STEPS, LONG = 3, 1.0  # so many are measured, unless those before took so many seconds
TINY_LR = 1e-6  # with which no training diverges


def seconds_of_training(trainer: Trainer, data: TrainingSet, options: TrainingOptions) -> float:
    """A guess of what a training takes.

    Args:
        trainer: makes its network and its augmentation.
        data: the images; no random number of the run is used.
        options: of the training.
    """
    steps = math.ceil(len(data) / options.batch)
    return options.passes(len(data)) * steps * seconds_per_step(trainer, data, options, math.ceil(len(data) / steps))


def seconds_per_step(trainer: Trainer, data: TrainingSet, options: TrainingOptions, images: int) -> float:
    """What a step of a training takes now: the median of a few, or the first if it is long.

    Args:
        trainer: makes its network and its augmentation.
        data: images to measure on, which are taken again and again if they are few.
        options: of the training.
        images: in the step.

    Raises:
        DoesNotFit: a step does not fit into memory.
    """
    with global_generator(0, "a network to measure with"):
        network = trainer.make(data.image_shape, data.classes).to(trainer.device)
    check_step_fits(network, data.image_shape, images, trainer.precision, f"training on the {data.name} set")
    options = options.model_copy(
        update={"epochs": 1, "lr": TINY_LR, "warmup": 0, "batch": images, "soft_loss": "cross-entropy"}
    )

    def seconds(images: int) -> float:
        places = torch.arange(images) % len(data)
        part = TrainingSet(data.name, data.images[places], data.labels[places], data.normalisation, data.classes)
        began = time.monotonic()
        with ranks.alone():
            train(
                network.requires_grad_(True),
                part,
                options,
                loss=cross_entropy,
                augmentation=trainer.augmentation_of(options),
                seed=0,
                purpose="measuring",
                device=trainer.device,
                keep_going=trainer.keep_going,
                chunk=trainer.chunk,
                precision=trainer.precision,
            )
        return time.monotonic() - began

    seconds(min(WARM_UP, images))
    taken = [seconds(images)]
    while len(taken) < STEPS and sum(taken) < LONG:
        taken.append(seconds(images))
    return statistics.median(taken)
