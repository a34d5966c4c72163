"""How long the classifiers of a run will take to train, measured on a few steps before the run takes its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from ltdd_core.evaluation.head import ClassifierHead
from ltdd_core.evaluation.lines import Line
from ltdd_core.networks.job import Job, Length
from ltdd_core.setup import DISTILLED, ORIGINAL, Setup
from ltdd_core.training.measuring import seconds_per_step
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer


def training_ahead(
    setup: Setup, lines: Sequence[Line], ipc_of_class: Sequence[int], recipe: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Seconds of each training of a network that lines of a table need, by the set that trains it.

    A network that two lines share counts once, and one that is in the store does not count.  A last layer that is
    trained alone is taken to cost what the whole network costs.  Nothing is said of compiled networks, of which
    compiling takes most of the time.

    Args:
        setup: of the run.
        lines: those whose classifiers are not trained yet.
        ipc_of_class: how many images the distilled set will have of each class.
        recipe: how the method wants networks to be trained on them.
    """
    ahead: dict[str, list[float]] = {}
    if setup.config.compute.compile is True:
        return ahead
    trainer = setup.trainer(recipe).changed(validation=setup.validation)

    @cache
    def seconds(length: Length) -> float:
        options = trainer.options[length.data]
        return length.steps * seconds_per_step(trainer, setup.original, options, length.images)

    for job in jobs_ahead(setup, lines, stand_in(setup, ipc_of_class), trainer):
        ahead.setdefault(job.length.data, []).append(seconds(job.length))
    return ahead


def stand_in(setup: Setup, ipc_of_class: Sequence[int]) -> TrainingSet:
    """Black images in the place of a distilled set that is not there yet."""
    labels = torch.arange(len(ipc_of_class)).repeat_interleave(torch.tensor(ipc_of_class))
    images = torch.zeros(1, 1, 1, 1).expand(len(labels), *setup.data.image_shape)
    return TrainingSet(DISTILLED, images, labels, setup.data.normalisation, setup.data.classes)


def jobs_ahead(setup: Setup, lines: Sequence[Line], distilled: TrainingSet, trainer: Trainer) -> list[Job]:
    """The trainings that lines of a table need, each once, without those that are done."""
    jobs: list[Job] = []
    for line in lines:
        head: ClassifierHead = line.head.make()
        sets = [setup.original if name == ORIGINAL else distilled for name in line.sets]
        jobs += trainer.plan(partial(head.fit, sets))
    return setup.store.missing(jobs)
