"""How long the classifiers of a run will take to train, measured on a few steps before the run takes its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ltdd_core.evaluation.lines import Line
from ltdd_core.seeding import generator, global_generator
from ltdd_core.setup import DISTILLED, ORIGINAL, Setup
from ltdd_core.training.loop import gradient_in_chunks
from ltdd_core.training.losses import cross_entropy
from ltdd_core.training.options import TrainingOptions

WARM_UP = 8  # images; the first pass of a network takes longer
LONG = 1.0  # seconds of a step that is not measured twice


def training_ahead(
    setup: Setup, lines: Sequence[Line], distilled: int, recipe: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Seconds of each training of a network that lines of a table need, by the set that trains it.

    A stage of a head is taken to train one network, so this is a guess for heads that train more, or that find one
    trained already.  Nothing is said of compiled networks, of which compiling takes most of the time.

    Args:
        setup: of the run.
        lines: those whose classifiers are not trained yet.
        distilled: how many images the distilled set will have.
        recipe: how the method wants networks to be trained on them.
    """
    if setup.config.compute.compile:
        return {}
    training = setup.config.training
    sizes = {ORIGINAL: len(setup.data.train_labels), DISTILLED: distilled}
    options = {ORIGINAL: training.original, DISTILLED: training.on_distilled(recipe)}
    ahead: dict[str, list[float]] = {}
    for name in (ORIGINAL, DISTILLED):
        trainings = sum(line.sets.count(name) for line in lines)
        if trainings:
            steps = options[name].epochs * math.ceil(sizes[name] / options[name].batch)
            ahead[name] = [steps * seconds_per_step(setup, options[name], sizes[name])] * trainings
    return ahead


def seconds_per_step(setup: Setup, options: TrainingOptions, size: int) -> float:
    """What a step of a training takes now, on training images; no random number of the run is used.

    Args:
        setup: of the run.
        options: of the training.
        size: images of the set that is trained on.
    """
    data, trainer = setup.data, setup.trainer()
    images_at_once = math.ceil(size / math.ceil(size / options.batch))
    places = torch.arange(images_at_once) % len(data.train_labels)
    images, labels = setup.original.batch(places, setup.device)
    with global_generator(0, "a network to measure with"):
        network = trainer.make(data.image_shape, data.classes).to(setup.device).train()
    parameters = list(network.parameters())
    gradient_in_chunks(network, parameters, images[:WARM_UP], labels[:WARM_UP], cross_entropy, WARM_UP)
    best = math.inf
    for _ in range(2):
        began = time.monotonic()
        seen = trainer.augmentation.apply(images, generator(0, "augmentation to measure with"), data.normalisation)
        gradient = gradient_in_chunks(network, parameters, seen, labels, cross_entropy, setup.chunk)
        float(gradient[0].sum())  # waits for the device
        best = min(best, time.monotonic() - began)
        if best > LONG:
            break
    return best
