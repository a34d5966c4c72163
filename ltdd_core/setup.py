"""Everything that a run works with, assembled once from its configuration and handed on.

The parts are made when they are first asked for, and once: a check of the folder or of the options comes before the
images are read, and whoever needs no random networks makes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from rich.filesize import decimal
from torch import Tensor

from ltdd_core import ranks
from ltdd_core.config.advice import against_memory
from ltdd_core.config.ipc import ipc_of_classes
from ltdd_core.config.model import KEEP, Config, Selection
from ltdd_core.config.resolve import component_maker, select
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.normalisation import Normalisation
from ltdd_core.data.sampler import Features, Sampler
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError, how_to_set, memory_in_words
from ltdd_core.networks.compiled import Compiling, compiling_pays
from ltdd_core.networks.network import NetworkFactory
from ltdd_core.networks.pool import NetworkPool
from ltdd_core.networks.store import SHARED, NetworkStore
from ltdd_core.options import Named, section_of
from ltdd_core.plugging.catalog import Catalog, installed
from ltdd_core.progress import Display
from ltdd_core.runs.devices import chunk_size, computing, find_device, has_compiler, has_room, machine_memory
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.precision import in_one_precision
from ltdd_core.runs.stop import StopRequest
from ltdd_core.seeding import generator, global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.cost import FORWARD_AND_BACKWARD, Ledger, multiply_adds
from ltdd_core.training.dynamics import TrainedFeatures
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import FindComponent, Trainer

CALIBRATION_IMAGES = 16  # a class, for batch normalisation; DC's public code
ORIGINAL, DISTILLED = "original", "distilled"
"""Names of training sets; their training options stand under them."""


@dataclass(frozen=True)
class Setup:
    """What a run works with.  Use :meth:`open`, which also listens to signals and sets the number of threads."""

    config: Config
    catalog: Catalog
    display: Display
    stop: StopRequest
    device: torch.device
    store: NetworkStore
    """Keeps the networks that are trained."""
    variant: str = ""
    """Which of several this is, for the display: ``convnet-d3, seed 0``."""
    began_compiled: bool | None = None
    """Whether the networks that are matched with were compiled when the run began; None where it begins now."""

    @classmethod
    @contextmanager
    def open(
        cls,
        config: Config,
        *,
        catalog: Catalog | None = None,
        display: Display | None = None,
        stop: StopRequest | None = None,
        store: NetworkStore | None = None,
        data: LongTailedSet | None = None,
        began_compiled: bool | None = None,
    ) -> Iterator[Self]:
        """Everything for a configuration, until the block ends.

        Args:
            config: the configuration; that of the setup says which precision it is.
            catalog: where it was resolved; made anew unless given.
            display: told what happens.
            stop: listened to already; signals are caught inside the block unless given.
            store: keeps trained networks; one in memory unless given.
            data: the long-tailed set where it is loaded already.
            began_compiled: of a run that goes on, whether the networks that are matched with were compiled.  It goes on
                so where that is left to the machine: another number of steps must not change how sums are rounded.

        Raises:
            InputError: the device, or compilation, is asked for and cannot be had.
            RunFailed: memory ran out inside the block.
        """
        catalog, display, config = catalog or installed(), display or Display(), in_one_precision(config)
        device, store = find_device(config.compute), store or NetworkStore()
        listening = nullcontext(stop) if stop is not None else StopRequest().listening()
        words = memory_in_words(against_memory(config))
        with computing(config.compute, device), words, listening as heard:
            setup = cls(config, catalog, display, heard, device, store, began_compiled=began_compiled)
            if data is not None:
                vars(setup)["data"] = data
            yield setup

    def changed(
        self,
        *,
        config: Config | None = None,
        network: Selection | None = None,
        seed: int | None = None,
        normalisation: Normalisation | None = None,
        store: NetworkStore | None = None,
    ) -> Self:
        """The same images with another configuration, network, seed, normalisation or store."""
        config = self.config if config is None else config
        if network is not None:
            config = replace(config, network=network)
        if seed is not None:
            config = replace(config, run=config.run.model_copy(update={"seed": seed}))
        variant = self.variant
        if network is not None or seed is not None:
            variant = f"{config.network.shown}, seed {config.run.seed}"
        changed = replace(self, config=config, store=self.store if store is None else store, variant=variant)
        data = self.data if normalisation is None else replace(self.data, normalisation=normalisation)
        vars(changed)["data"] = data  # loaded already
        return changed

    def keep_going(self) -> None:
        """Between units of work: stop if asked to, or where another process of the run has died.

        Raises:
            Interrupted: a signal has come.
            OtherEnded: another process has died.
        """
        self.stop.check()
        ranks.check()

    # ---- data ------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> LongTailedSet:
        """The long-tailed set, in memory or mapped from the cache of decoded images.

        Raises:
            InputError: the images are missing or cannot be used, or the cut is impossible.
        """
        with self.stop.at_once():
            return load_long_tailed(self.config.data.name, self.config.data.make(), self.display)

    @cached_property
    def placed(self) -> LongTailedSet:
        """The long-tailed set with its training images on the device, where that has room for them."""
        return self.data.to(self.device) if has_room(self.device, self.data.train_images.nbytes) else self.data

    @property
    def keep_real(self) -> bool:
        """Whether a class with no more real images than its IPC keeps them."""
        return self.config.run.init == KEEP

    @cached_property
    def ipc_of_class(self) -> tuple[int, ...]:
        """Synthetic images of each class, at least 1; of one that keeps its real images, as many as it has.

        Raises:
            InputError: the configuration names a class that does not exist, or has too few images for all classes, or
                more than the memory of the machine holds.
        """
        numbers = ipc_of_classes(self.config.run.ipc, self.data.class_names, self.data.counts)
        numbers = tuple(map(min, numbers, self.data.counts)) if self.keep_real else numbers
        needed, there = sum(numbers) * math.prod(self.data.image_shape) * torch.float32.itemsize, machine_memory()
        if there is not None and needed > there:
            raise InputError(
                f"{sum(numbers)} synthetic images take {decimal(needed)}, and this machine has {decimal(there)} of "
                f"memory: lower {how_to_set('ipc')}."
            )
        return numbers

    @cached_property
    def sampler(self) -> Sampler:
        """The sampler of the configuration, prepared."""
        return self.prepared(self.config.sampler.make())

    def prepared(self, sampler: Sampler) -> Sampler:
        """A sampler that knows the long-tailed set."""
        sampler.prepare(self.data)
        return sampler

    @cached_property
    def original(self) -> TrainingSet:
        """The long-tailed set, ready to train on; the sampler orders its epochs."""
        return self.original_in_order_of(self.sampler)

    def original_in_order_of(self, sampler: Sampler) -> TrainingSet:
        """The long-tailed set, ready to train on, its epochs ordered by a sampler."""
        data = self.data
        return TrainingSet(ORIGINAL, self._seen, data.train_labels, data.normalisation, data.classes, sampler.epoch)

    @cached_property
    def _seen(self) -> Tensor:
        data = self.placed
        return data.normalisation.apply(data.train_images) if data.normalisation.once else data.train_images

    @cached_property
    def test(self) -> TrainingSet:
        """The test images, in the form in which networks see a set; nothing trains on them."""
        data = self.data
        return TrainingSet("test", data.test_images, data.test_labels, data.normalisation, data.classes)

    @cached_property
    def validation(self) -> TrainingSet | None:
        """The validation images, in the form in which networks see a set; None where there are none.

        They are for what a head chooses and for the calibration of classifiers; nothing trains on them.
        """
        data = self.data
        if data.validation_images is None or data.validation_labels is None:
            return None
        return TrainingSet(
            "validation", data.validation_images, data.validation_labels, data.normalisation, data.classes
        )

    def distilled(self, distilled: DistilledSet) -> TrainingSet:
        """A distilled set, ready to train on: decoded, in the order of a shuffle.

        Raises:
            InputError: its images need the decoder of a matcher that is not installed.
        """
        seen = distilled.decoded(self.catalog)
        return TrainingSet(
            DISTILLED, seen.images, seen.labels, seen.normalisation, self.data.classes, soft_labels=seen.soft_labels
        )

    # ---- networks --------------------------------------------------------------------------------

    @cached_property
    def chunk(self) -> int:
        """Images at once through a network."""
        return chunk_size(self.config.compute, self.device, self.data.image_shape)

    @cached_property
    def augmentation(self) -> Augmentation:
        """The differentiable augmentation of matching and training."""
        return Augmentation(self.config.run.augment)

    @cached_property
    def make_network(self) -> NetworkFactory:
        """Makes networks of the configured kind."""
        return NetworkFactory(self.config.network.component, self.config.network.options)

    def network_of(self, named: Named) -> NetworkFactory:
        """Makes networks of another kind.

        Raises:
            InputError: an unknown name or option.
        """
        chosen = select(self.catalog, "network", section_of(named))
        return NetworkFactory(chosen.component, chosen.options)

    def check_network(self) -> None:
        """See that a network of the run can be made for its images, before anything is written.

        Raises:
            InputError: the network is not for such images, or its pretrained weights are not for it.
        """
        self.networks.new("check")

    @property
    def compiling(self) -> Compiling:
        """Whether networks are compiled: ``auto`` only where there is a compiler."""
        asked = self.config.compute.compile
        return False if asked == "auto" and not has_compiler(self.device) else asked

    @cached_property
    def networks(self) -> NetworkPool:
        """Random networks to match with."""
        return self.pool_of(self.make_network)

    @cached_property
    def matches_compiled(self) -> bool:
        """Whether the networks that are matched with are compiled."""
        if self.compiling == "auto" and self.began_compiled is not None:
            return self.began_compiled

        def work() -> float:
            component = self.config.matcher.component
            if component is None or not component.iterative:
                return 0.0
            images = self.config.matcher.make().images_per_step(self.data.counts, self.ipc_of_class)
            with global_generator(0, "a network to count with"):
                network = self.make_network(self.data.image_shape, self.data.classes).eval()
            of_an_image = FORWARD_AND_BACKWARD * multiply_adds(network, self.data.image_shape)
            return float(self.config.run.iterations * images * of_an_image)

        return compiling_pays(self.compiling, work, self.device)

    def pool_of(self, make: NetworkFactory) -> NetworkPool:
        """Random networks of a kind."""
        return NetworkPool(
            make,
            self.data.image_shape,
            self.data.classes,
            seed=self.config.run.seed,
            device=self.device,
            calibration=self._calibration,
            precision=self.config.compute.precision,
            compiled=self.matches_compiled,
        )

    def _calibration(self, step: int) -> Tensor:
        """A few normalised images of every class, on the device."""
        draws, data = generator(self.config.run.seed, "calibration", step), self.data
        indices = [self.sampler.of_class(label, CALIBRATION_IMAGES, draws) for label in range(data.classes)]
        return data.normalisation.apply(data.train_images[torch.cat(indices)].to(self.device))

    @cached_property
    def shared(self) -> NetworkStore:
        """Keeps what is trained beforehand, for all runs."""
        return NetworkStore(self.config.compute.store or SHARED)

    # ---- training --------------------------------------------------------------------------------

    @cached_property
    def teachers(self) -> dict[str, Any]:
        """Teachers that were trained or found already, by what was asked for."""
        return {}

    @cached_property
    def beforehand(self) -> Ledger:
        """What the networks cost that are trained before the distilled set is made, such as teachers."""
        return Ledger()

    @cached_property
    def component(self) -> FindComponent:
        """Finds another component by name."""
        return component_maker(self.catalog)

    def trainer(self, recipe: Mapping[str, Any] | None = None) -> Trainer:
        """What classifiers are trained with.

        Args:
            recipe: how a method wants networks to be trained on its images, as :attr:`DistilledSet.recipe`.

        Raises:
            InputError: the recipe has options that there are not.
        """
        training = self.config.training
        options: dict[str, TrainingOptions] = {
            ORIGINAL: training.original,
            DISTILLED: training.on_distilled(recipe or {}),
        }
        return Trainer(
            self.make_network,
            options,
            self.augmentation,
            seed=self.config.run.seed,
            device=self.device,
            chunk=self.chunk,
            precision=self.config.compute.precision,
            compiling=self.compiling,
            together=self.config.compute.together,
            store=self.store,
            keep_going=self.keep_going,
            display=self.display,
            component=self.component,
            variant=self.variant,
        )

    @cached_property
    def features(self) -> Features:
        """What networks say that were trained on the long-tailed set; the first call trains them."""
        return TrainedFeatures(lambda: self.trainer().changed(ledger=self.beforehand), lambda: self.original)
