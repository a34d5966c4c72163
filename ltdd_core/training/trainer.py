"""The trainer that classifier heads are given."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ltdd_core import ranks
from ltdd_core.errors import DoesNotFit, RunFailed, either, how_to_set
from ltdd_core.identity import Unidentified, identity
from ltdd_core.networks.compiled import Compiling
from ltdd_core.networks.job import Job, Key
from ltdd_core.networks.network import MakeNetwork, Network
from ltdd_core.networks.store import NetworkStore, Plan
from ltdd_core.progress import Display
from ltdd_core.seeding import global_generator
from ltdd_core.training.augment import Augmentation
from ltdd_core.training.augmentation import TrainingAugmentation
from ltdd_core.training.cost import BACKWARD, FORWARD_AND_BACKWARD, Ledger, multiply_adds
from ltdd_core.training.loop import train, train_together
from ltdd_core.training.losses import Loss, LossSchedule, cross_entropy
from ltdd_core.training.network_training import NetworkTraining
from ltdd_core.training.options import TrainingOptions
from ltdd_core.training.sets import TrainingSet

LastLayer = Callable[[int, int], nn.Linear]
"""``(features, outputs) -> last layer`` of a network; it draws initial weights as ``torch.nn`` does."""
FindComponent = Callable[[str, str | Mapping[str, Any]], Any]
"""``component("head", "cosine")``, or with options, ``{"name": "cosine", "scale": 10}``: a component by name.

Raises:
    InputError: an unknown name or option.
"""

CLASSES = "classes"
"""What is trained, unless a head says otherwise."""


class FrozenBody(Network):
    """A trained network, frozen, under another last layer, which learns.

    Args:
        body: gives the features.
        linear: the last layer.
    """

    def __init__(self, body: Network, linear: nn.Linear) -> None:
        super().__init__()
        self.body, self.linear = body.requires_grad_(False), linear

    def train(self, mode: bool = True) -> FrozenBody:
        """Only the last layer has a training mode: batch normalisation of the body keeps its averages."""
        super().train(mode)
        self.body.eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Features ``[n, D]`` of the body."""
        with torch.no_grad():
            return self.body.embed(images)


def _no_components(kind: str, named: str | Mapping[str, Any]) -> Any:
    raise ValueError(f"this trainer was made without a way to find a {kind}")


class Trainer:
    """What a classifier head trains with: the network of the run, its options for each set, its seed.

    A network is trained once: a store keeps it under all that decides it, so stages and lines of a table that need the
    same network share it.

    Args:
        make: makes a network with initial weights, from an image shape and a number of outputs.
        options: how each set trains a network, by the name of the set.
        augmentation: of the training images.
        seed: of initial weights and of everything random in training.
        device: where networks and batches are.
        chunk: images at once through a network.
        precision: ``bf16`` computes features in mixed precision, ``fp32`` as they are.
        compiling: whether networks are compiled; ``auto``: in trainings that are long enough.
        together: how many networks of one shape are trained at once, where several are known to be needed; ``auto``: as
            many as pays.
        store: keeps the networks; one in memory unless given.
        keep_going: called between steps; raises to stop.
        display: told what is about to be trained, and how far it is.
        component: finds another component by name.
        validation: the validation images, where a head is given some.
        ledger: notes what the networks cost that are asked for; one of its own unless given.
        variant: which of several trainers this is, as the display calls it: ``convnet-d3, seed 0``.
    """

    component: FindComponent
    """Finds another component by name; see :data:`FindComponent`."""
    validation: TrainingSet | None
    """Validation images, for a head to choose with and never to train on; None where there are none.

    None of them trains a network, and a class may be missing.  A head that does without leaves them alone.
    """

    def __init__(
        self,
        make: MakeNetwork,
        options: Mapping[str, TrainingOptions],
        augmentation: Augmentation,
        *,
        seed: int,
        device: torch.device,
        chunk: int,
        precision: str = "fp32",
        compiling: Compiling = False,
        together: int | Literal["auto"] = 1,
        store: NetworkStore | None = None,
        keep_going: Callable[[], None] = lambda: None,
        display: Display | None = None,
        component: FindComponent = _no_components,
        validation: TrainingSet | None = None,
        ledger: Ledger | None = None,
        variant: str = "",
    ) -> None:
        self.make, self.options, self.augmentation = make, options, augmentation
        self.seed, self.device, self.chunk = seed, device, chunk
        self.precision, self.compiling, self.together = precision, compiling, together
        self.store = store or NetworkStore()
        self.keep_going, self.display, self.component = keep_going, display or Display(), component
        self.validation = validation
        self.ledger = ledger or Ledger()
        self._variant = variant
        self._part: str | None = None

    def changed(
        self,
        *,
        make: MakeNetwork | None = None,
        options: Mapping[str, TrainingOptions] | None = None,
        augmentation: Augmentation | None = None,
        seed: int | None = None,
        store: NetworkStore | None = None,
        validation: TrainingSet | None = None,
        ledger: Ledger | None = None,
        display: Display | None = None,
    ) -> Trainer:
        """A trainer that differs in what is given; the arguments are those of the constructor."""
        other = copy.copy(self)
        given: dict[str, Any] = {"make": make, "options": options, "augmentation": augmentation}
        given |= {"seed": seed, "store": store, "validation": validation, "ledger": ledger, "display": display}
        vars(other).update({name: value for name, value in given.items() if value is not None})
        return other

    def plan(self, work: Callable[[Trainer], object]) -> list[Job]:
        """What some work would train, in this order; nothing is trained.

        Args:
            work: takes a trainer, such as ``lambda trainer: head.fit(sets, trainer)``.  The networks it is given have
                their initial weights, and their outputs are those of a few images, again and again.
        """
        planning, plan = copy.copy(self), Plan()
        planning.store, planning.display, planning.ledger = plan, Display(), Ledger()
        work(planning)
        return plan.jobs

    def part(self, name: str, *, validation: TrainingSet | None = None) -> Trainer:
        """The same trainer for a part of a classifier, such as one of its stages.

        What is trained for ``"classes"`` in it is trained for ``name``, so that a head can train that part as
        if it were all of a classifier.

        Args:
            name: of the part; it decides the initial weights and the random draws of what the part trains.
            validation: validation images with the labels of the part, which need not be those of the whole; none
                unless given.
        """
        part = copy.copy(self)
        part.validation = validation
        part._part = name if self._part is None else f"{self._part}, {name}"
        return part

    def train(
        self,
        data: TrainingSet,
        *,
        outputs: int,
        purpose: str = CLASSES,
        loss: Loss = cross_entropy,
        loss_at: LossSchedule | None = None,
        layer: LastLayer | None = None,
    ) -> Network:
        """A network with ``outputs`` logits, trained on ``data``; in evaluation mode, frozen.

        Args:
            data: the images; its name says which options train it.
            outputs: number of logits.
            purpose: names what is trained; initial weights and random draws are a function of the seed and of this.
            loss: of logits and labels.
            loss_at: instead of ``loss`` where it changes from epoch to epoch.
            layer: makes the last layer, where it is not the network's own.

        Raises:
            RunFailed: training diverged.
        """
        purpose, options = self._full(purpose), self.options[data.name]

        def make() -> Network:
            with global_generator(self.seed, f"weights for {purpose} on {data.name}"):
                network = self.make(data.image_shape, outputs)
                if layer is not None:
                    network.linear = layer(network.linear.in_features, outputs)
            return network.to(self.device)

        key = self._key(
            data, options, purpose, network=self.make, outputs=outputs, layer=layer, loss=loss, loss_at=loss_at
        )

        def of_an_image() -> int:
            return FORWARD_AND_BACKWARD * multiply_adds(make().eval(), data.image_shape)

        return self._trained(
            key,
            make,
            data,
            options,
            purpose,
            of_an_image,
            loss=loss,
            loss_at=loss_at,
            option=f"training.{data.name}.lr",
        )

    def retrain(
        self,
        network: Network,
        data: TrainingSet,
        options: TrainingOptions,
        *,
        layer: LastLayer,
        purpose: str,
        loss: Loss = cross_entropy,
        lr_option: str = "head.lr",
    ) -> Network:
        """A trained network, which stays as it is, under a new last layer that is trained alone.

        Args:
            network: from :meth:`train`.
            data: the images.
            options: of this training; the head's own.
            layer: makes the last layer.
            purpose: names what is trained, as in :meth:`train`.
            loss: of logits and labels.
            lr_option: the option that a message names where training diverges.

        Raises:
            RunFailed: training diverged.
        """
        purpose = self._full(purpose)

        def make() -> Network:
            with global_generator(self.seed, f"weights for {purpose} on {data.name}"):
                retrained = FrozenBody(network, layer(network.linear.in_features, network.linear.out_features))
            return retrained.to(self.device)

        key = self._key(data, options, purpose, network=network, outputs=None, layer=layer, loss=loss, loss_at=None)

        def of_an_image() -> int:
            last = network.linear.in_features * network.linear.out_features
            return multiply_adds(network, data.image_shape) + BACKWARD * last

        # The body was made fast when it was trained.
        return self._trained(key, make, data, options, purpose, of_an_image, loss=loss, fast=False, option=lr_option)

    def features(self, network: Network, data: TrainingSet) -> Tensor:
        """Features of all images of a set, float32 ``[N, D]`` on the CPU, without augmentation.

        Args:
            network: from :meth:`train`.
            data: the images.
        """
        return self.outputs(network.embed, data)

    def outputs(self, function: Callable[[Tensor], Tensor], data: TrainingSet) -> Tensor:
        """What a function of images says of all images of a set, not augmented: float32 ``[N, ...]`` on the CPU.

        Args:
            function: of normalised images ``[n, C, H, W]`` on the device: a network, or a classifier's
                ``log_probabilities``.
            data: the images.
        """
        if isinstance(self.store, Plan):  # its networks are not trained, so what a few images give is as good
            with self.store.standing_for(len(data), self.chunk) as count, torch.no_grad():
                found = function(data.batch(torch.arange(count), self.device)[0]).float().cpu()
            return found[torch.arange(len(data)) % count]
        parts, done = [], 0
        with self.display.work(f"applying it to the {data.name} images", len(data), "images") as told, torch.no_grad():
            chunks = torch.arange(len(data)).split(self.chunk)
            shared = len(chunks) >= ranks.count()
            for indices, (images, _) in data.batches(
                chunks[ranks.share_of(len(chunks))] if shared else chunks, self.device
            ):
                self.keep_going()
                parts.append(function(images).float().cpu())
                done += len(indices) * (ranks.count() if shared else 1)
                told(min(done, len(data)))
            return ranks.put_together(torch.cat(parts)) if shared else torch.cat(parts)

    def augmentation_of(self, options: TrainingOptions) -> Augmentation | TrainingAugmentation:
        """Of the training images: the one that the options name, or else that of the run."""
        if options.augment is None:
            return self.augmentation
        named: TrainingAugmentation = self.component("augmentation", options.augment)
        return named

    def _told_augmentation(self, options: TrainingOptions) -> Any:
        chosen = self.augmentation_of(options)
        return chosen.name if isinstance(chosen, Augmentation) else identity(chosen)

    def _full(self, purpose: str) -> str:
        if self._part is None:
            return purpose
        return self._part if purpose == CLASSES else f"{self._part}: {purpose}"

    def _key(self, data: TrainingSet, options: TrainingOptions, purpose: str, **decided_by: Any) -> Key | None:
        """All that decides a network; None where that cannot be told."""
        try:
            return {
                "what": f"{purpose} on the {data.name} set",
                "seed": self.seed,
                "data": data.identity(),
                "training": identity(options.model_dump(exclude={"epochs"})),
                "epochs": options.passes(len(data), data.name),
                "augmentation": self._told_augmentation(options),
                "compute": [self.precision, self.compiling],  # as asked for: a longer training may become compiled
                "code": identity(
                    [train, train_together, type(data), type(data.normalisation), type(self.augmentation)]
                ),
                **{name: identity(value) for name, value in decided_by.items()},
            }
        except Unidentified:
            return None

    def _trained(
        self,
        key: Key | None,
        make: Callable[[], Network],
        data: TrainingSet,
        options: TrainingOptions,
        purpose: str,
        of_an_image: Callable[[], int],
        *,
        loss: Loss,
        loss_at: LossSchedule | None = None,
        fast: bool = True,
        option: str,
    ) -> Network:
        """The network of a key, trained now if need be.

        Args:
            fast: in the precision of the trainer, and compiled where it pays.
            option: of the learning rate, that a message names where training diverges.
        """
        training = NetworkTraining(
            make,
            data,
            options,
            purpose,
            loss,
            loss_at,
            self.augmentation_of(options),
            self.seed,
            self.device,
            self.keep_going,
            self.chunk,
            self.precision if fast else "fp32",
            self.compiling if fast else False,
            of_an_image,
            self.display,
            self.together,
            self._variant,
        )
        try:
            with self.ledger.spending():
                found = self.store.trained(training.job(key), self.keep_going)
        except RunFailed as error:
            if isinstance(error, DoesNotFit):
                option = option.removesuffix("lr") + "batch"
            evaluates = either("ltdd evaluate RUN", "evaluate(..., settings=[...])")
            advice = (
                f"That is {how_to_set(option, '...')}, which {evaluates} takes too where a set is distilled already."
            )
            raise RunFailed(f"{error} {advice}") from error
        if not isinstance(self.store, Plan):
            self.ledger.note(key, lambda: training.cost(found.seconds))
        return found.network
