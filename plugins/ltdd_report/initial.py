"""The images that a run drew for its method to start from, drawn again from the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ltdd_core import Distillation, InputError, LongTailedSet, Sampler, configure, generator
from ltdd_core.commands import open_setup, task_of
from ltdd_report.reading import RunRecord


@dataclass(frozen=True)
class Initial:
    """The initial images of a run; whether its method began with them is for the method to say."""

    images: Tensor
    """float32 ``[n, C, H, W]``, normalised, sorted by class."""
    labels: Tensor
    """int64 ``[n]``."""
    repeats: bool
    """Whether some are images that occur before, changed a little: a class had fewer images than were asked for."""
    kept: bool
    """Whether every distilled image is one of them, bit for bit."""


def initial_images(run: RunRecord, data: LongTailedSet) -> Initial | None:
    """The initial images of a run, drawn on the CPU.

    None where they cannot be had: a plugin is not here or has changed, or a network would have to be trained to choose
    the images.

    Args:
        run: a finished run.
        data: the set of the run.
    """
    settings = {key: value for key, value in run.config.items() if key != "compute"}
    try:
        with open_setup(configure(**settings, compute={"device": "cpu"}), data=data) as setup:
            task = task_of(setup)
            if _needs_a_network(run, task):
                return None
            images, real = task.initial_images, task.initial_real
    except InputError:
        return None
    repeats = bool(real.any()) and not bool(real.all())
    return Initial(images, task.initial_labels, repeats, _kept(run, images, task.initial_labels))


class _TrainsError(Exception):
    """The sampler has asked for something that would train a network."""


class _Refusing:
    """The features of no network."""

    def __call__(self, label: int) -> Tensor:
        raise _TrainsError

    def dynamics(
        self, label: int, statistic: Callable[[Tensor, Tensor], Tensor], *, networks: int = 1, part: float = 1.0
    ) -> Tensor:
        raise _TrainsError


def _needs_a_network(run: RunRecord, task: Distillation) -> bool:
    """Whether the sampler that chooses the initial images looks at features; asked with features that refuse."""
    init, sampling = run.config["init"], run.config["sampler"]
    if init == "noise":
        return False
    sampler: Sampler = task.component("sampler", sampling if init in ("real", "keep", sampling["name"]) else init)
    sampler.prepare(task.data)
    draws = generator(task.seed, "initial images")
    try:
        for label, ipc in enumerate(task.ipc_of_class):
            sampler.representatives(label, ipc, draws, _Refusing())
    except _TrainsError:
        return True
    return False


def _kept(run: RunRecord, images: Tensor, labels: Tensor) -> bool:
    """Whether every distilled image is an initial image of its class."""
    distilled = run.distilled
    if distilled.images.shape[1:] != images.shape[1:]:
        return False
    return all(
        any(torch.equal(image, start) for start in images[labels == label])
        for image, label in zip(distilled.images, distilled.labels, strict=True)
    )
