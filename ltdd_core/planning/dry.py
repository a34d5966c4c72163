"""What stands in a dry run for images, the network store and trajectories, so that nothing is read, trained or kept.

A dry run takes the way of a run, through the same code, with hollow images (:mod:`ltdd_core.planning.counting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.data.longtail import by_count
from ltdd_core.data.normalisation import PerChannel
from ltdd_core.data.sampler import Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.distillation.task import SYNTHETIC_PIXELS, Distillation
from ltdd_core.distillation.trajectories import Trajectories
from ltdd_core.identity import digest
from ltdd_core.networks.job import Job, Key
from ltdd_core.networks.store import NetworkStore, Plan, Trained
from ltdd_core.networks.trajectory import Report, Trajectory
from ltdd_core.planning.counting import NOTHING, Counting, Work, hollow
from ltdd_core.setup import Setup
from ltdd_core.storage import digest_of
from ltdd_core.training.sets import TrainingSet

FP32 = 4
"""Bytes of a number."""


@dataclass(frozen=True)
class PlannedTraining:
    """A training, or several that are alike."""

    what: str
    """What is trained, in words."""
    work: Work
    """Of all of them."""
    peak: int
    """Bytes of the tensors of a step."""
    disk: int
    """Bytes that a store keeps of all of them."""
    count: int = 1
    """How many there are."""


class DryStore(Plan):
    """Notes each training that is asked for once, and counts one step of it.

    Args:
        counting: active while the store is used.
    """

    def __init__(self, counting: Counting) -> None:
        super().__init__()
        self.counting = counting
        self.trainings: list[PlannedTraining] = []
        """In the order in which they are asked for."""
        self.noted: set[str] = set()
        """What their keys are called."""

    @contextmanager
    def standing_for(self, images: int, chunk: int) -> Iterator[int]:
        """A chunk of them, noted apart as often as it takes to have all."""
        count = min(images, chunk)
        with self.counting.apart(noted=True) as applied:
            yield count
        chunks = math.ceil(images / chunk)
        own = len(range(chunks)[ranks.share_of(chunks)]) / chunks if chunks >= ranks.count() else 1.0
        what = f"applying a network to {images} images"
        self.trainings.append(PlannedTraining(what, applied.work * (own * images / count), applied.peak, 0))

    def trained(self, job: Job, keep_going: Callable[[], None] = lambda: None) -> Trained:
        """An untrained network, as a trained one is used."""
        if self.is_new(job.key):
            self.note(job, str((job.key or {}).get("what", "a network")))
        return Trained(job.ready(job.make().eval().requires_grad_(False)), None)

    def apart(self, trainings: Sequence[Callable[[NetworkStore], object]], keep_going: Callable[[], None]) -> None:
        """Note what the first process of a run trains; what the others train at the same time costs it nothing."""
        if ranks.count() == 1 or len(trainings) == 1:
            return
        for place, training in enumerate(trainings):
            noted, others = len(self.trainings), place % ranks.count() != ranks.rank()
            with ranks.alone():
                training(self)
            if others:
                self.trainings[noted:] = [replace(one, work=NOTHING) for one in self.trainings[noted:]]

    def artefact(
        self, key: Key | None, compute: Callable[[], dict[str, Tensor]], keep_going: Callable[[], None] = lambda: None
    ) -> dict[str, Tensor]:
        """Computed without a computation; noted like a training, since it is done once."""
        with self.counting.apart(noted=True) as count:
            tensors = compute()
        if self.is_new(key):
            size = sum(value.numel() * value.itemsize for value in tensors.values())
            self.trainings.append(PlannedTraining(str((key or {}).get("what", "")), count.work, count.peak, size))
        return tensors

    def note(self, job: Job, what: str, *, count: int = 1, disk: int | None = None, apart: bool = False) -> None:
        """Note a training, of which one step is counted.

        Args:
            job: the training.
            what: it is, in words.
            count: how many there are of its kind.
            disk: bytes that are kept of each; the weights unless given.
            apart: whether each process of a run trains other ones.
        """
        network = job.make()
        kept = FP32 * sum(value.numel() for value in network.state_dict().values()) if disk is None else disk
        with self.counting.apart(noted=True) as step, ranks.alone() if apart else nullcontext():
            images = job.first_step(network)
        own = len(range(count)[ranks.rank() :: ranks.count()]) if apart else count
        times = own * job.length.seen / max(1, images)
        self.trainings.append(PlannedTraining(what, step.work * times, step.peak, count * kept, count))

    def is_new(self, key: Key | None) -> bool:
        """Whether nothing of this key was asked for before; of what has no key nobody knows."""
        name = f"without a key: {len(self.noted)}" if key is None else digest(key)
        new = name not in self.noted
        self.noted.add(name)
        return new


class DrySet(TrainingSet):
    """A training set of hollow images: sets of one name and of the same labels are the same set."""

    def identity(self) -> Any:
        """What is there to be told apart."""
        views = self.view_labels is not None, self.soft_labels is not None
        return [self.name, digest_of({"labels": self.labels}), list(self.image_shape), self.classes, *views]

    def __ltdd_identity__(self) -> Any:
        """The same, where the images alone are looked at."""
        return self.identity()


def dry(data: TrainingSet) -> DrySet:
    """The same training set, as one of hollow images."""
    return DrySet(**{field.name: getattr(data, field.name) for field in fields(data)})


@dataclass(frozen=True)
class DrySetup(Setup):
    """A setup whose training sets are dry."""

    def original_in_order_of(self, sampler: Sampler) -> TrainingSet:
        """As of a setup."""
        return dry(super().original_in_order_of(sampler))

    def distilled(self, distilled: Any) -> TrainingSet:
        """As of a setup."""
        return dry(super().distilled(distilled))


class DryTask(Distillation):
    """What a matcher works with in a dry run."""

    parts = 1.0
    """Images that go through a network at once, as a share of those of the run."""

    @property
    def chunk_with_gradient(self) -> int:
        """A share of that of the run; ``chunk`` is one already."""
        _, height, width = self.data.image_shape
        return max(1, self.chunk, int(self.parts * (SYNTHETIC_PIXELS // (height * width))))

    def trajectories(self, name: str, **how: Any) -> Trajectories:
        """Trajectories that are there as soon as they are asked for."""
        return DryTrajectories(super().trajectories(name, **how))


class DryTrajectories(Trajectories):
    """Trajectories whose training is noted, and whose parameters are hollow.

    Args:
        planned: those of the run.
    """

    def __init__(self, planned: Trajectories) -> None:
        vars(self).update(vars(planned))

    def __getitem__(self, number: int) -> Trajectory:
        """Of a network that has all of its epochs behind it."""
        return DryTrajectory(self.folder, super().__getitem__(number).job, self._numbers)

    def train(self, count: int, report: Report, keep_going: Callable[[], None] = lambda: None) -> None:
        """Note the trainings, which differ in nothing that costs."""
        store, first = self._trainer.store, self[0]
        if isinstance(store, DryStore) and store.is_new(first.key):
            store.note(first.job, f"{self.name}s", count=count, disk=first.size(first.job.epochs), apart=True)


class DryTrajectory(Trajectory):
    """A trajectory of hollow parameters."""

    def epochs(self) -> int:
        """As many as are wanted."""
        return self.job.epochs

    def rows(self, *epochs: int) -> tuple[Tensor, ...]:
        """Hollow parameters for each of some epochs."""
        numbers = sum(value.numel() for value in self.job.make().parameters())
        return tuple(hollow(numbers) for _ in epochs)


def hollow_set(
    name: str, counts: Sequence[int], image_shape: tuple[int, int, int], tests: int, class_names: Sequence[str] = ()
) -> LongTailedSet:
    """A long-tailed set of hollow images.

    Args:
        name: of the data.
        counts: training images of each class.
        image_shape: ``(C, H, W)``.
        tests: how many test images there are, as many of each class as of any other.
        class_names: of the classes; numbers unless given.
    """
    classes, numbers = len(counts), torch.tensor(counts)
    images, channels = int(numbers.sum()), image_shape[0]
    return LongTailedSet(
        name,
        hollow(images, *image_shape, dtype=torch.uint8),
        torch.arange(classes).repeat_interleave(numbers),
        hollow(tests, *image_shape, dtype=torch.uint8),
        torch.arange(tests) % classes,
        tuple(class_names) or tuple(map(str, range(classes))),
        PerChannel((0.5,) * channels, (0.25,) * channels),
        tuple(counts),
    )


def spread(counts: Sequence[int], number: int) -> list[int]:
    """The places of some classes: the largest, and others evenly from head to tail.

    The largest is always among them, since a method may need the more memory the more images a class has.

    Args:
        counts: images of each class.
        number: how many are wanted, at least 2; all where there are no more.
    """
    if len(counts) <= number:
        return list(range(len(counts)))
    largest, *others = by_count(counts)
    step = len(others) / (number - 1)
    return sorted([largest, *(others[math.floor((place + 0.5) * step)] for place in range(number - 1))])


def only(data: LongTailedSet, classes: Sequence[int]) -> LongTailedSet:
    """A hollow set with some of its classes, numbered anew in the order given."""
    few = hollow_set(
        data.name,
        [data.counts[label] for label in classes],
        data.image_shape,
        len(data.test_labels),
        [data.class_names[label] for label in classes],
    )
    return replace(few, normalisation=data.normalisation)
