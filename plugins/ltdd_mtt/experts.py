"""Experts: networks trained on the long-tailed set, their parameters kept after every epoch.

The recipe is that of the buffers in MTT's public code (Cazenavette et al., CVPR 2022): SGD with a constant learning
rate, without momentum and weight decay, differentiable augmentation with strengths of its own for each image.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from ltdd_core import (
    BaseOptions,
    Distillation,
    InputError,
    Named,
    OptionError,
    RunFailed,
    TrainingOptions,
    Trajectories,
    how_to_set,
    name_of,
    option,
)


class ExpertOptions(BaseOptions):
    """How experts are trained, and how many.

    Count, learning rate and batch suit sets of a few hundred images, on which the published ones hardly leave
    their initial weights; those are in the preset mtt-paper.
    """

    count: int = option(4, "number of experts; MTT's public code: 100", ge=1)
    epochs: int = option(50, "number of epochs per expert", source="MTT, public code", ge=1)
    lr: float = option(0.1, "learning rate of the experts, constant; MTT's public code: 0.01", gt=0)
    batch: int = option(16, "number of images per step of an expert; MTT's public code: 256", ge=1)
    weight_decay: float = option(0.0, "weight decay of the experts", source="MTT, public code", ge=0)
    store: Literal["fp32", "fp16", "bf16"] = option(
        "fp32", "format of the parameters on disk; fp16 and bf16 take half the room"
    )
    sampler: Named = option(
        "instance", "sampler that orders the epochs", source="MTT, public code", component="sampler"
    )
    head: Named = option(
        "linear", "classifier head whose loss trains them", source="MTT, public code", component="head"
    )


def experts_of(task: Distillation, options: ExpertOptions) -> Trajectories:
    """The experts that the options describe, trained or not.

    Raises:
        InputError: the head trains no expert.
    """
    training = TrainingOptions(
        epochs=options.epochs,
        lr=options.lr,
        momentum=0,
        weight_decay=options.weight_decay,
        batch=options.batch,
        schedule="constant",
    )
    try:
        return task.trajectories(
            "expert", training=training, head=options.head, sampler=options.sampler, numbers=options.store
        )
    except OptionError as error:
        raise InputError(f"experts.head={name_of(options.head)}: {error}") from error


def train_experts(
    task: Distillation, options: ExpertOptions, experts: Trajectories, report: Callable[[int, int], None]
) -> None:
    """All experts that are asked for; those that are there cost nothing, those of other processes are waited for.

    Args:
        task: what they are trained for.
        options: how many.
        experts: from :func:`experts_of`.
        report: told ``(expert, epochs it has behind it)`` when one is begun or found, and after each epoch.

    Raises:
        InputError: the file of an expert is damaged, or the folder cannot be written.
        RunFailed: an expert diverged.
        Interrupted: ``task.keep_going`` said so; what is done is saved.
    """
    try:
        experts.train(options.count, report, task.keep_going)
    except RunFailed as error:
        raise RunFailed(
            f"{error} That is {how_to_set('experts.lr', '...')}; the experts before it are kept."
        ) from error


class Pace:
    """Epochs of all experts: how many are done, and the time left."""

    def __init__(self, options: ExpertOptions) -> None:
        self._epochs, self.total = options.epochs, options.count * options.epochs
        self._done: dict[int, int] = {}
        self._before, self._began = 0, time.monotonic()

    def note(self, expert: int, epochs: int) -> bool:
        """An expert has so many epochs behind it; whether it is the first time that one hears of it."""
        epochs, first = min(epochs, self._epochs), expert not in self._done
        self._before += epochs if first else 0
        self._done[expert] = epochs
        return first

    @property
    def done(self) -> int:
        """Epochs of all experts so far."""
        return sum(self._done.values())

    def left(self) -> str:
        """The time left, ``0:01:30``; empty as long as nothing is known of it."""
        now = self.done - self._before
        if not now:
            return ""
        return str(timedelta(seconds=round((time.monotonic() - self._began) / now * (self.total - self.done))))
