"""What networks say of the images they are trained on: features after a training, and statistics during it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

from ltdd_core.identity import Unidentified, identity
from ltdd_core.networks.job import Epoch, Job, Key, Start
from ltdd_core.training.cost import FORWARD_AND_BACKWARD, TrainingCost, multiply_adds
from ltdd_core.training.measuring import seconds_of_training
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer

Statistic = Callable[[Tensor, Tensor], Tensor]
"""``(logits [n, classes], labels [n]) -> [n]``: a number for each image."""


class TrainedFeatures:
    """The :class:`ltdd_core.Features` of a run: its trainer trains what they need when it is first asked for.

    Args:
        trainer: gives the trainer.
        original: gives the long-tailed set.
    """

    def __init__(self, trainer: Callable[[], Trainer], original: Callable[[], TrainingSet]) -> None:
        self._trainer, self._original = trainer, original
        self._known: dict[object, Tensor] = {}

    def __call__(self, label: int) -> Tensor:
        """Features of the training images of a class by the plain classifier."""
        data = self._original()
        if "features" not in self._known:
            trainer = self._trainer()
            plain = trainer.train(data, outputs=data.classes)
            self._known["features"] = trainer.features(plain, data)
        return self._known["features"][data.labels.cpu() == label]

    def dynamics(self, label: int, statistic: Statistic, *, networks: int = 1, part: float = 1.0) -> Tensor:
        """A statistic of the training images of a class after each epoch of some trainings."""
        data, asked = self._original(), (statistic, networks, part)
        if asked not in self._known:
            self._known[asked] = training_dynamics(self._trainer(), data, statistic, networks=networks, part=part)
        return self._known[asked][:, :, data.labels.cpu() == label]


def training_dynamics(
    trainer: Trainer, data: TrainingSet, statistic: Statistic, *, networks: int, part: float
) -> Tensor:
    """A statistic of each image after each epoch, float32 ``[networks, epochs, N]`` on the CPU.

    The networks are plain classifiers, trained as the trainer trains on this set, each from initial weights of its own;
    the schedule of the learning rate is that of the whole training.  The images are not augmented when they are looked
    at.  What is found is kept in the network store, for each network as soon as it is done.

    Args:
        trainer: trains the networks.
        data: the images.
        statistic: a number for each image, from logits and labels on the device.
        networks: how many, at least 1.
        part: share of the epochs after which the trainings end, above 0 and at most 1; one epoch at least.

    Raises:
        RunFailed: a training diverged.
    """
    options = trainer.options[data.name]
    epochs = max(1, round(part * options.passes(len(data), data.name)))
    jobs = trainer.plan(
        lambda planning: [
            planning.train(data, outputs=data.classes, purpose=f"dynamics {number}") for number in range(networks)
        ]
    )

    @cache
    def announce() -> None:
        """Before the first that is trained now; of compiled networks nobody knows how long they take."""
        if trainer.compiling is not True:
            trainer.display.beforehand(lambda: [part * seconds_of_training(trainer, data, options)] * networks)

    found = []
    for number, job in enumerate(jobs):
        what = f"training network {number + 1} of {networks}, and looking at the images after each epoch"
        with trainer.ledger.spending():
            compute = partial(_watched, trainer, data, statistic, job, epochs, what, announce)
            kept = trainer.store.artefact(_key(job, statistic, epochs), compute, trainer.keep_going)
        trainer.ledger.note(job.key, partial(_cost, data, job, epochs, float(kept["seconds"])))
        found.append(kept["statistic"])
    return torch.stack(found)


class _LongEnough(Exception):
    """The training has come to the last epoch that is wanted."""


def _watched(
    trainer: Trainer,
    data: TrainingSet,
    statistic: Statistic,
    job: Job,
    epochs: int,
    what: str,
    announce: Callable[[], None],
) -> dict[str, Tensor]:
    """The statistic after each epoch of a training, float32 ``[epochs, N]``, and the seconds of all this."""
    announce()
    network, rows, began = job.make(), list[Tensor](), time.monotonic()
    ready = job.ready(network)
    with trainer.display.work(what, epochs, "epochs", of=data.name) as told:

        def after_epoch(epoch: Epoch) -> None:
            ready.eval()
            rows.append(_values(trainer, data, lambda images, labels: statistic(ready(images), labels)))
            told(epoch.done, loss=epoch.loss)
            if epoch.done == epochs:
                raise _LongEnough

        with suppress(_LongEnough):
            job.train(network, Start(), after_epoch)
    seconds = torch.tensor(time.monotonic() - began, dtype=torch.float64)
    return {"statistic": torch.stack(rows), "seconds": seconds}


def _values(trainer: Trainer, data: TrainingSet, statistic: Statistic) -> Tensor:
    """A function of images and labels for all images of a set, float32 ``[N]`` on the CPU."""
    parts = []
    with torch.no_grad():
        for indices in torch.arange(len(data)).split(trainer.chunk):
            trainer.keep_going()
            parts.append(statistic(*data.batch(indices, trainer.device)).float().cpu())
    return torch.cat(parts)


def _key(job: Job, statistic: Statistic, epochs: int) -> Key | None:
    """All that decides the dynamics; None where that cannot be told."""
    if job.key is None:
        return None
    try:
        return {"what": "training dynamics", "network": job.key, "until": epochs, "statistic": identity(statistic)}
    except Unidentified:
        return None


def _cost(data: TrainingSet, job: Job, epochs: int, seconds: float) -> TrainingCost:
    """Of the steps, and of a forward pass of all images after each epoch."""
    of_an_image = (FORWARD_AND_BACKWARD + 1) * multiply_adds(job.make().eval(), data.image_shape)
    return TrainingCost(epochs * len(data), seconds, epochs * len(data) * of_an_image)
