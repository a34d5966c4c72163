"""Teachers: networks that are trained on the long-tailed set beforehand, and kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

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
from ltdd_core.training.options import TrainingOptions, with_what_it_needs
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels
from ltdd_core.training.together import Ask, train_ahead
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
        return self._all([_Asked(network, head, training, seeds, sampler)])[0]

    def of(self, options: TeacherTrainingOptions, network: Named | None = None) -> Teachers:
        """Teachers as the options of a method or of a labeller say, the first with the seed of the run.

        Args:
            options: which teachers, and how they are trained.
            network: their kind of network; that of the run unless given.

        Raises:
            InputError: an unknown name or option, or a head of several stages.
            RunFailed: training diverged.
        """
        return self.of_kinds(options, [network])[0]

    def of_kinds(self, options: TeacherTrainingOptions, networks: Sequence[Named | None]) -> list[Teachers]:
        """As :meth:`of` for several kinds of network, which the processes of a run share.

        Args:
            options: which teachers of each kind, and how they are trained.
            networks: the kinds of network; None for that of the run.

        Raises:
            InputError: an unknown name or option, or a head of several stages.
            RunFailed: training diverged.
        """
        seeds = range(self.trainer.seed, self.trainer.seed + options.count)
        training = options.training()
        return self._all([_Asked(each, options.head, training, list(seeds), options.sampler) for each in networks])

    def _all(self, asked: Sequence[_Asked]) -> list[Teachers]:
        """All teachers of several kinds; those of a run's processes train other ones each."""
        new = {repr(each): self._kind(each) for each in asked if repr(each) not in self.made}
        self._announce(new.values())
        with self.trainer.ledger.spending():
            trainings = [partial(kind.fit, trainer) for kind in new.values() for trainer in kind.trainers]
            self.store.apart(trainings, self.trainer.keep_going)
        for name, kind in new.items():
            train_ahead([Ask(trainer, kind.fit) for trainer in kind.trainers])
            classifiers = [kind.fit(trainer) for trainer in kind.trainers]
            self.made[name] = Teachers(classifiers, kind.head, kind.trainers, kind.data)
        return [self.made[repr(each)] for each in asked]

    def _kind(self, asked: _Asked) -> _Kind:
        """Teachers of one kind before they are trained.

        Raises:
            InputError: as :meth:`__call__`.
        """
        data = self.original(asked.sampler)
        usual = self.trainer.options[data.name]
        options: TrainingOptions = usual
        if isinstance(asked.training, TrainingOptions):
            options = asked.training
        elif asked.training is not None:
            values = {**usual.model_dump(), **with_what_it_needs(asked.training)}
            try:
                options = validate_options(("training",), TrainingOptions, values)
            except OptionError as error:
                raise InputError(f"the training of a teacher: {error}") from error
        make = None if asked.network is None else self.network(asked.network)
        trainer = self.trainer.changed(options={data.name: options}, store=self.store, make=make)
        head: ClassifierHead = trainer.component("head", asked.head)
        if head.stages != 1:
            name = name_of(asked.head)
            raise InputError(f"the head {name!r} has {head.stages} stages, and a teacher is one classifier.")
        return _Kind(head, [trainer.changed(seed=seed) for seed in asked.seeds], data, options)

    def _announce(self, kinds: Collection[_Kind]) -> None:
        """Tell how long the trainings will take that are not found; of compiled networks nobody knows."""
        if self.trainer.compiling is True:
            return
        new = [(kind, len(self.store.missing(kind.jobs()))) for kind in kinds]
        if any(number for _, number in new):
            self.trainer.display.beforehand(lambda: [seconds for kind, number in new for seconds in kind.guess(number)])


class _Asked(NamedTuple):
    """Arguments of :meth:`TeacherTraining.__call__`."""

    network: Named | None
    head: Named
    training: TrainingOptions | Mapping[str, Any] | None
    seeds: list[int]
    sampler: Named | None


@dataclass(frozen=True)
class _Kind:
    """Teachers of one kind before they are trained."""

    head: ClassifierHead
    trainers: list[Trainer]
    """One for each seed."""
    data: TrainingSet
    options: TrainingOptions

    def fit(self, trainer: Trainer, store: NetworkStore | None = None) -> Classifier:
        """Train one, or find it in a store; that of the trainer unless given."""
        return self.head.fit([self.data], trainer.changed(store=store))

    def jobs(self) -> list[Job]:
        """What is trained for all of them."""
        return [job for trainer in self.trainers for job in trainer.plan(lambda t: self.head.fit([self.data], t))]

    def guess(self, number: int) -> list[float]:
        """The seconds of some of these trainings, each as long as the next."""
        return [seconds_of_training(self.trainers[0], self.data, self.options)] * number if number else []


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
            key = {"what": "statistics of batch normalisation by class", "network": identity(network), "data": images}
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


def teacher_training(setup: Setup) -> TeacherTraining:
    """Trains teachers for a run; they are kept in the store that all runs share, or in that of the configuration."""

    def original(sampler: Named | None) -> TrainingSet:
        if sampler is None:
            return setup.original
        return setup.original_in_order_of(setup.prepared(setup.component("sampler", sampler)))

    trainer = setup.trainer().changed(ledger=setup.beforehand)
    return TeacherTraining(trainer, original, setup.network_of, setup.shared, setup.teachers)
