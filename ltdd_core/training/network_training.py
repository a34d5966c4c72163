"""One training of a network, which a store takes as a job: what it trains, how, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from ltdd_core.identity import Unidentified, digest, identity, structure
from ltdd_core.networks.compiled import CompiledNetwork, Compiling, compiling_pays
from ltdd_core.networks.job import Epoch, Job, Key, Length, Start
from ltdd_core.networks.network import Network
from ltdd_core.progress import Display
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import TrainingAugmentation
from ltdd_core.training.cost import TrainingCost
from ltdd_core.training.fitting import check_step_fits
from ltdd_core.training.loop import BEGINNING, Learner, train, train_together
from ltdd_core.training.losses import Loss, LossSchedule
from ltdd_core.training.models import draws_in_training
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet


@dataclass(frozen=True)
class NetworkTraining:
    """A training of :func:`ltdd_core.training.loop.train`, whose arguments most of these are."""

    make: Callable[[], Network]
    """Makes the network with its initial weights, on the device."""
    data: TrainingSet
    options: TrainingOptions
    purpose: str
    loss: Loss
    loss_at: LossSchedule | None
    augmentation: Augmentation | TrainingAugmentation
    seed: int
    device: torch.device
    keep_going: Callable[[], None]
    chunk: int
    precision: str
    compiling: Compiling
    of_an_image: Callable[[], int]
    """Counts the multiply-adds of a training step on one image."""
    display: Display
    together: int | Literal["auto"]
    """How many networks are trained at once; ``auto``: as many as pays."""
    variant: str
    """Which of several this is, as the display calls it; empty where there is one."""

    def job(self, key: Key | None) -> Job:
        """The training as a job; ``key`` is all that decides its network."""
        steps = math.ceil(len(self.data) / self.options.batch)  # of an epoch
        seen = self.epochs * len(self.data)
        length = Length(self.data.name, self.epochs * steps, math.ceil(len(self.data) / max(1, steps)), seen)
        first = self.first_step
        return Job(key, self.make, self.train, self.ready, self.epochs, self.extendable, length, first, self)

    @cached_property
    def epochs(self) -> int:
        """How many there are."""
        return self.options.passes(len(self.data), self.data.name)

    @cached_property
    def compiled(self) -> bool:
        """Whether the network is compiled."""
        return compiling_pays(self.compiling, lambda: self.epochs * len(self.data) * self.of_an_image(), self.device)

    @property
    def _subject(self) -> str:
        return f"{self.purpose} on the {self.data.name} set"

    @property
    def what(self) -> str:
        """What is trained, in words."""
        return f"{self._subject} ({self.variant})" if self.variant else self._subject

    @cached_property
    def kind(self) -> str | None:
        """What trainings have in common that can be done at once; None: this one is done alone."""
        if self.compiled:
            return None
        network = self.make()
        if draws_in_training(network):
            return None
        try:
            alike = [identity(self.options), structure(network)]
        except Unidentified:
            return None
        size = [len(self.data), list(self.data.image_shape), self.epochs, self.chunk]
        return digest([alike, size, str(self.device), self.precision])

    def multiply_adds_of_step(self) -> int:
        """Of one network."""
        return min(self.options.batch, len(self.data)) * self.of_an_image()

    def learner(self, network: Network, start: Start, after_epoch: Callable[[Epoch], None]) -> Learner:
        """A network, and all of this training that is its own."""
        return Learner(
            network,
            self.data,
            self.loss,
            self.loss_at,
            self.augmentation,
            self.seed,
            f"{self.purpose} on {self.data.name}",
            start,
            after_epoch,
        )

    def train_with(self, others: Sequence[NetworkTraining], learners: Sequence[Learner]) -> None:
        """Train at once with others of this :attr:`kind`.

        Args:
            others: the trainings, this one not among them.
            learners: of all of them, this one first.

        Raises:
            RunFailed: a network diverged.
            UnequalEpochs: the samplers have drawn unequal numbers of images.
        """
        count = 1 + len(others)
        for training in (self, *others):
            self.display.training(f"{training.what}, one of {count} at once")
        subject = f"training {count} networks at once on the {self.data.name} set"
        done = learners[0].start.done
        with self.display.work(subject, self.epochs, "epochs", done, of=self.data.name, networks=count) as told:

            def told_after(epoch: Epoch) -> None:
                told(epoch.done, loss=epoch.loss)
                learners[0].after_epoch(epoch)

            train_together(
                [replace(learners[0], after_epoch=told_after), *learners[1:]],
                self.options,
                device=self.device,
                keep_going=self.keep_going,
                chunk=self.chunk,
                precision=self.precision,
            )

    def train(self, network: Network, start: Start, after_epoch: Callable[[Epoch], None]) -> Network:
        """Train a network from where it stands.

        Raises:
            RunFailed: a step does not fit into memory, or the weights are no longer finite.
        """
        count = min(len(self.data), self.options.batch)
        check_step_fits(network, self.data.image_shape, count, self.precision, f"training {self._subject}")
        self.display.training(f"{self.what}{', compiled' * self.compiled}")
        with self.display.work(
            f"training {self._subject}", self.epochs, "epochs", start.done, of=self.data.name
        ) as told:

            def told_after(epoch: Epoch) -> None:
                told(epoch.done, loss=epoch.loss)
                after_epoch(epoch)

            return self._train(network, self.data, self.options, compiled=self.compiled, start=start, after=told_after)

    def first_step(self, network: Network) -> int:
        """Train on as many images as a step has, not compiled; says how many these are."""
        count = min(len(self.data), self.options.batch)
        soft = None if self.data.soft_labels is None else self.data.soft_labels[torch.arange(count)]
        first = replace(
            self.data, images=self.data.images[:count], labels=self.data.labels[:count], soft_labels=soft, order=None
        )
        options = self.options.model_copy(update={"epochs": 1, "warmup": 0})
        self._train(network, first, options, compiled=False)
        return count

    def _train(
        self,
        network: Network,
        data: TrainingSet,
        options: TrainingOptions,
        *,
        compiled: bool,
        start: Start = BEGINNING,
        after: Callable[[Epoch], None] = lambda epoch: None,
    ) -> Network:
        return train(
            network,
            data,
            options,
            loss=self.loss,
            loss_at=self.loss_at,
            augmentation=self.augmentation,
            seed=self.seed,
            purpose=f"{self.purpose} on {data.name}",
            device=self.device,
            keep_going=self.keep_going,
            start=start,
            after_epoch=after,
            chunk=self.chunk,
            precision=self.precision,
            compiled=compiled,
        )

    def ready(self, network: Network) -> Network:
        """A trained network as it is used: in the precision of its training, and compiled if that was."""
        plain = self.precision == "fp32" and not self.compiled
        return network if plain else CompiledNetwork(network, self.precision, self.compiled).eval()

    def extendable(self) -> bool:
        """Whether more epochs could follow, as if they had been there from the start."""
        steady = self.options.schedule == "constant" and self.loss_at is None and self.data.steady
        return steady and not self.options.remembers

    def cost(self, seconds: float | None) -> TrainingCost:
        """What it costs; the seconds are measured where it is done."""
        seen = self.epochs * len(self.data)
        return TrainingCost(seen, seconds, seen * self.of_an_image())
