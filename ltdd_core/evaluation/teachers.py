"""Teachers: networks that are trained on the long-tailed set beforehand, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ltdd_core.config.validation import validate_options
from ltdd_core.errors import InputError, OptionError
from ltdd_core.evaluation.head import Classifier, ClassifierHead, Softmax
from ltdd_core.evaluation.teacher_options import TeacherTrainingOptions
from ltdd_core.identity import Unidentified, identity
from ltdd_core.networks.job import Job
from ltdd_core.networks.network import MakeNetwork, Network
from ltdd_core.networks.statistics import LayerStatistics, class_statistics
from ltdd_core.networks.store import NetworkStore
from ltdd_core.options import Named, name_of
from ltdd_core.setup import Setup
from ltdd_core.training.measuring import seconds_of_training
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels
from ltdd_core.training.trainer import Trainer

PIXELS_AT_ONCE = 64 * 32 * 32
"""Pixels of images, at least, that go through a teacher at once."""


@dataclass(frozen=True)
class TeacherTraining:
    """Trains teachers on the long-tailed set; ``task.trained(...)`` of a matcher and of a labeller."""

    trainer: Trainer
    """As the run trains its classifiers."""
    original: Callable[[Named | None], TrainingSet]
    """The long-tailed set with its epochs in the order of a sampler; of the run's sampler unless one is named."""
    network: Callable[[Named], MakeNetwork]
    """Makes networks of a kind by its name."""
    store: NetworkStore
    """Keeps the networks, for all runs."""
    made: dict[str, Teachers] = field(default_factory=dict)
    """Those that were trained or found already, by what was asked for: who asks again gets the same."""

    def __call__(
        self,
        *,
        network: Named | None = None,
        head: Named = "linear",
        training: TrainingOptions | Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
        sampler: Named | None = None,
    ) -> Teachers:
        """Classifiers trained on the long-tailed set: found in the network store, or trained now and kept there.

        ::

            teachers = task.trained(network={"name": "convnet-d3", "norm": "batch"}, head="balanced-softmax",
                                    training={"epochs": 100, "schedule": "cosine"}, seeds=range(3))
            labels = teachers.soft_labels(images)

        Args:
            network: kind of network, by name or with options; that of the run unless given.
            head: trains each; it has one stage.
            training: how: options of :class:`ltdd_core.TrainingOptions`, over those of the run; those of the run unless
                given.
            seeds: one for each teacher; that of the run unless given.
            sampler: orders the epochs; that of the run unless given.

        Raises:
            InputError: an unknown name or option, or a head of several stages.
            RunFailed: training diverged.
        """
        seeds = [self.trainer.seed] if seeds is None else list(seeds)
        asked = repr((network, head, training, seeds, sampler))
        if asked not in self.made:
            self.made[asked] = self._trained(network, head, training, seeds, sampler)
        return self.made[asked]

    def of(self, options: TeacherTrainingOptions, network: Named | None = None) -> Teachers:
        """Teachers as the options of a method or of a labeller say, the first with the seed of the run.

        Args:
            options: which teachers, and how they are trained.
            network: their kind of network; that of the run unless given.

        Raises:
            InputError: an unknown name or option, or a head of several stages.
            RunFailed: training diverged.
        """
        seed = self.trainer.seed
        return self(
            network=network,
            head=options.head,
            sampler=options.sampler,
            training=options.training(),
            seeds=range(seed, seed + options.count),
        )

    def _trained(
        self,
        network: Named | None,
        head: Named,
        training: TrainingOptions | Mapping[str, Any] | None,
        seeds: Sequence[int],
        sampler: Named | None,
    ) -> Teachers:
        data = self.original(sampler)
        usual = self.trainer.options[data.name]
        options: TrainingOptions = usual
        if isinstance(training, TrainingOptions):
            options = training
        elif training is not None:
            try:
                options = validate_options(("training",), TrainingOptions, {**usual.model_dump(), **training})
            except OptionError as error:
                raise InputError(f"the training of a teacher: {error}") from error
        make = None if network is None else self.network(network)
        trainer = self.trainer.changed(options={data.name: options}, store=self.store, make=make)
        made: ClassifierHead = trainer.component("head", head)
        if made.stages != 1:
            raise InputError(f"the head {name_of(head)!r} has {made.stages} stages, and a teacher is one classifier.")
        trainers = [trainer.changed(seed=seed) for seed in seeds]
        self._announce(made, trainers, data, options)
        with trainer.ledger.spending():
            self.store.apart([partial(_fit, made, data, each) for each in trainers], trainer.keep_going)
        return Teachers([made.fit([data], each) for each in trainers], made, trainers, data)

    def _announce(
        self, head: ClassifierHead, trainers: Sequence[Trainer], data: TrainingSet, options: TrainingOptions
    ) -> None:
        """Tell how long the trainings will take that are not found; of compiled networks nobody knows."""
        if self.trainer.compiling is True:
            return
        jobs = [job for trainer in trainers for job in trainer.plan(lambda planning: head.fit([data], planning))]
        new = len(self.store.missing(jobs))
        if new:
            self.trainer.display.beforehand(lambda: [seconds_of_training(trainers[0], data, options)] * new)


class Teachers:
    """Trained classifiers of one kind, from :class:`TeacherTraining`."""

    def __init__(
        self, classifiers: Sequence[Classifier], head: ClassifierHead, trainers: Sequence[Trainer], data: TrainingSet
    ) -> None:
        self.classifiers = tuple(classifiers)
        """One for each seed."""
        self._head, self._trainers, self._data = head, trainers, data

    def __len__(self) -> int:
        return len(self.classifiers)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """The network of each, in evaluation mode and frozen.

        Raises:
            ValueError: the head's classifier is more than the softmax of one network.
        """
        found = [each.logits if isinstance(each, Softmax) else None for each in self.classifiers]
        networks = tuple(network for network in found if isinstance(network, Network))
        if len(networks) < len(found):
            raise ValueError("the classifiers of this head are more than one network each")
        return networks

    @cached_property
    def initial(self) -> tuple[Network, ...]:
        """Each network as it was before its training: with its initial weights.

        Raises:
            ValueError: the head trains no network, or several.
        """
        if len(self._jobs) != len(self):
            raise ValueError("the head trains no network, or several")
        return tuple(job.make().eval().requires_grad_(False) for job in self._jobs)

    def logits(self, images: Tensor) -> Tensor:
        """The mean of the teachers' log-probabilities, float32 ``[n, classes]``, on the device of the images.

        That is the mean of their logits, up to a number for each image.  No gradients are taken.

        Args:
            images: normalised, float32 ``[n, C, H, W]``, any number of them, on any device.
        """
        trainer, parts = self._trainers[0], []
        with torch.no_grad():
            for part in images.split(self._at_once(images)):
                trainer.keep_going()
                seen = part.to(trainer.device)
                log_p = torch.stack([each.log_probabilities(seen) for each in self.classifiers])
                parts.append(log_p.mean(0).to(images.device))
        return torch.cat(parts)

    def probabilities(self, images: Tensor, temperature: float = 1.0) -> Tensor:
        """softmax(logits / T), float32 ``[n, classes]``.

        Args:
            images: as of :meth:`logits`.
            temperature: T, above 0.
        """
        return (self.logits(images) / temperature).softmax(1)

    def soft_labels(self, images: Tensor) -> SoftLabels:
        """What the teachers say of images: logits, so that whoever trains on them can choose a temperature.

        Args:
            images: as of :meth:`logits`.
        """
        return SoftLabels(self.logits(images), "logits")

    def statistics(self) -> list[dict[str, LayerStatistics]]:
        """For each network the statistics of the inputs of its batch normalisations over the long-tailed set, by class.

        They are kept in the network store.  A network without batch normalisation has none.

        Raises:
            ValueError: the head's classifier is more than the softmax of one network.
        """
        return [self._statistics(network) for network in self.networks]

    def _at_once(self, images: Tensor) -> int:
        """How many of the images, ``[n, C, H, W]``, go through the teachers together."""
        return max(1, self._trainers[0].chunk, PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))

    def _statistics(self, network: Network) -> dict[str, LayerStatistics]:
        trainer, data = self._trainers[0], self._data

        def compute() -> dict[str, Tensor]:
            chunks = torch.arange(len(data)).split(self._at_once(data.images))
            batches = (data.batch(indices, trainer.device) for indices in chunks)
            found = class_statistics(network, batches, data.classes)
            return {f"{layer}: {name}": value for layer, of in found.items() for name, value in vars(of).items()}

        key: dict[str, Any] | None = None
        try:
            images = identity(replace(data, order=None))
            key = {"what": "class statistics of batch normalisation", "network": identity(network), "data": images}
        except Unidentified:
            pass
        tensors = trainer.store.artefact(key, compute, trainer.keep_going)
        layers = dict.fromkeys(name.rpartition(": ")[0] for name in tensors)
        return {name: LayerStatistics(tensors[f"{name}: mean"], tensors[f"{name}: var"]) for name in layers}

    @cached_property
    def _jobs(self) -> list[Job]:
        return [job for trainer in self._trainers for job in trainer.plan(lambda t: self._head.fit([self._data], t))]

    @property
    def bytes(self) -> int:
        """What storing the teachers takes: parameters, and buffers such as running statistics, in float32."""
        held = [value for each in self.classifiers for value in (*each.parameters(), *each.buffers())]
        if not held:  # a classifier that is a function of networks does not show them
            held = [value for job in self._jobs for value in job.make().parameters()]
        return sum(4 * value.numel() for value in held)

    def __ltdd_identity__(self) -> Any:
        """All that decides the teachers, as JSON.

        Raises:
            Unidentified: that cannot be told.
        """
        keys = [job.key for job in self._jobs]
        if None in keys:
            raise Unidentified("what decides a teacher cannot be told")
        return [identity(self._head), keys]


def _fit(head: ClassifierHead, data: TrainingSet, trainer: Trainer, store: NetworkStore) -> Classifier:
    return head.fit([data], trainer.changed(store=store))


def teacher_training(setup: Setup) -> TeacherTraining:
    """Trains teachers for a run; they are kept in the store that all runs share, or in that of the configuration."""

    def original(sampler: Named | None) -> TrainingSet:
        if sampler is None:
            return setup.original
        return setup.original_in_order_of(setup.prepared(setup.component("sampler", sampler)))

    trainer = setup.trainer().changed(ledger=setup.beforehand)
    return TeacherTraining(trainer, original, setup.network_of, setup.shared, setup.teachers)
