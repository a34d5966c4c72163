"""One training of a network, which a store takes as a job: what it trains, how, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ltdd_core.networks.compiled import CompiledNetwork, Compiling, compiling_pays
from ltdd_core.networks.job import Epoch, Job, Key, Length, Start
from ltdd_core.networks.network import Network
from ltdd_core.progress import Display
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import TrainingAugmentation
from ltdd_core.training.cost import TrainingCost
from ltdd_core.training.loop import BEGINNING, train
from ltdd_core.training.losses import Loss, LossSchedule
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
    variant: str
    """Which of several this is, as the display calls it; empty where there is one."""

    def job(self, key: Key | None) -> Job:
        """The training as a job; ``key`` is all that decides its network."""
        steps = math.ceil(len(self.data) / self.options.batch)  # of an epoch
        seen = self.epochs * len(self.data)
        length = Length(self.data.name, self.epochs * steps, math.ceil(len(self.data) / max(1, steps)), seen)
        return Job(key, self.make, self.train, self.ready, self.epochs, self.extendable, length, self.first_step)

    @cached_property
    def epochs(self) -> int:
        """How many there are."""
        return self.options.passes(len(self.data), self.data.name)

    @cached_property
    def compiled(self) -> bool:
        """Whether the network is compiled."""
        return compiling_pays(self.compiling, lambda: self.epochs * len(self.data) * self.of_an_image(), self.device)

    def train(self, network: Network, start: Start, after_epoch: Callable[[Epoch], None]) -> Network:
        """Train a network from where it stands."""
        what = f"{self.purpose} on the {self.data.name} set"
        variant = f" ({self.variant})" if self.variant else ""
        self.display.training(f"{what}{variant}{', compiled' * self.compiled}")
        with self.display.work(f"training {what}", self.epochs, "epochs", start.done, of=self.data.name) as told:

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
