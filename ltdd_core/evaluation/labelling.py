"""Give a distilled set soft labels, and train on it with the labels that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ltdd_core.config.layers import Layer
from ltdd_core.config.model import Config, Selection
from ltdd_core.config.resolve import resolve, select
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError, RunFailed, how_to_set
from ltdd_core.evaluation.labeller import Labeller, Labelling
from ltdd_core.evaluation.teachers import teacher_training
from ltdd_core.runs.distilled import DistilledSet, check_distilled
from ltdd_core.setup import Setup
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.soft_labels import SoftLabels


def try_labeller(setup: Setup) -> None:
    """Train or find the teachers of the configured labeller, and see that it works on an image of each class.

    A method may take hours for its images: what is wrong with the labeller is better known before.

    Raises:
        InputError: the labeller does not suit the data.
        RunFailed: the training of a teacher diverged, or the labels cannot be used.
    """
    chosen, data = setup.config.labeller, setup.data
    if chosen.component is None:
        return
    first = torch.stack([(data.train_labels == label).nonzero()[0, 0] for label in range(data.classes)])
    images = data.normalisation.apply(data.train_images[first])
    seen = DistilledSet(images, data.train_labels[first], data.class_names, data.normalisation, ipc=1)
    _soft_labels(prepared(setup, chosen, seen), chosen, seen, setup)


def labelled(setup: Setup, distilled: DistilledSet) -> DistilledSet:
    """A distilled set with the labels of the configured labeller, if there is one.

    Raises:
        InputError: the labeller does not suit the set.
        RunFailed: the training of a teacher diverged, or the labels cannot be used.
    """
    chosen = setup.config.labeller
    if chosen.component is None:
        return distilled
    seen = distilled.decoded(setup.catalog)
    labeller = prepared(setup, chosen, seen)
    recipe: dict[str, Any] = {**distilled.recipe, **labeller.recipe}
    if labeller.options.per == "view":
        bytes_ = labeller.teacher_bytes()
        return replace(distilled, soft_labels=None, labeller=chosen.to_tree(), teacher_bytes=bytes_, recipe=recipe)
    soft = _soft_labels(labeller, chosen, seen, setup)
    return replace(distilled, soft_labels=soft, labeller=None, teacher_bytes=0, recipe=recipe)


def _soft_labels(labeller: Labeller, chosen: Selection, seen: DistilledSet, setup: Setup) -> SoftLabels:
    """A soft label of each image, float32 on the CPU.

    Raises:
        RunFailed: they are such as no command could read again.
    """
    soft = labeller.label(seen.images.to(setup.device))
    soft = replace(soft, values=soft.values.detach().float().cpu())
    try:
        check_distilled(replace(seen, soft_labels=soft))
    except InputError as error:
        raise RunFailed(f"labeller {chosen.name!r} gave soft labels that cannot be used: {error}") from error
    return soft


def training_set_of(setup: Setup, distilled: DistilledSet) -> TrainingSet:
    """A distilled set, ready to train on with the labels that it has.

    Raises:
        InputError: its images need a decoder, or its labels a labeller, that is not installed.
    """
    data = setup.distilled(distilled)
    if distilled.labeller is None:
        return data
    chosen = labeller_of(setup, distilled.labeller)
    labeller = prepared(as_labelled(setup, distilled), chosen, distilled.decoded(setup.catalog))
    return replace(data, view_labels=labeller.label)


def check_same_images(data: LongTailedSet, distilled: DistilledSet) -> None:
    """Refuse a teacher of other images than those that were distilled; an earlier version noted no digest of them.

    Raises:
        InputError: the data are others.
    """
    facts = distilled.origin.get("data")
    digest = facts.get("digest") if isinstance(facts, Mapping) else None
    if digest not in (None, data.digest):
        raise InputError(
            f"the set was distilled from other images than data {data.name!r} has now, and its soft labels are those "
            "of a teacher of the same ones: leave the options of the data as they were, or distil again."
        )


OF_A_TEACHER = ("network", "sampler", "training", "augment", "seed", "compute")
"""What of a configuration decides a teacher, beside the data and the labeller."""


def as_labelled(setup: Setup, distilled: DistilledSet) -> Setup:
    """The setup that the set got its labels with: the student may be another network, of another seed.

    Raises:
        InputError: the configuration that is stored with the set cannot be used, or the data or the pretrained weights
            are others.
    """
    check_same_images(setup.data, distilled)
    stored = distilled.origin.get("configuration")
    if not isinstance(stored, Mapping):
        return setup
    tree, now = {key: stored[key] for key in OF_A_TEACHER if key in stored}, setup.config
    if isinstance(tree.get("network"), Mapping):
        tree["network"] = _with_its_weights(tree["network"], now)
    made = resolve(setup.catalog, [Layer("the distilled set", tree)], distils=False)
    precision = now.compute.precision if made.compute.precision == "auto" else made.compute.precision
    config = replace(
        now,
        network=made.network,
        sampler=made.sampler,
        training=made.training,
        run=now.run.model_copy(update={"seed": made.run.seed, "augment": made.run.augment}),
        compute=now.compute.model_copy(update={"precision": precision, "compile": made.compute.compile}),
    )
    if config == now:
        return setup
    changed = setup.changed(config=config)
    vars(changed)["beforehand"] = setup.beforehand  # whoever asks for the teachers, their cost is of this setup
    return changed


def _with_its_weights(network: Mapping[str, Any], now: Config) -> dict[str, Any]:
    """The network of a teacher, with the file of its pretrained weights in the place of their digest."""
    if network.get("weights") is None:
        return dict(network)
    if network["weights"] != now.science()["network"].get("weights"):
        raise InputError(
            "the soft labels are those of a teacher that began with pretrained weights, and the network has others "
            f"now: leave {how_to_set('network.name')} and {how_to_set('network.weights')} as they were."
        )
    return {**network, "weights": now.network.to_tree()["weights"]}


def labeller_of(setup: Setup, named: Mapping[str, Any]) -> Selection:
    """The labeller that a set needs for the labels of its views.

    Raises:
        InputError: it is not installed, or its options are others now.
    """
    try:
        return select(setup.catalog, "labeller", named)
    except InputError as error:
        raise InputError(
            f"this distilled set needs the labeller {named['name']!r} for its soft labels: {error}"
        ) from error


def prepared(setup: Setup, chosen: Selection, seen: DistilledSet) -> Labeller:
    """A labeller, with its teachers trained or found.

    Args:
        setup: of the run.
        chosen: the labeller.
        seen: the distilled set as a network sees it.

    Raises:
        InputError: the labeller does not suit the set.
        RunFailed: the training of a teacher diverged.
    """
    labeller: Labeller = chosen.make()
    labeller.prepare(labelling_of(setup, seen))
    return labeller


def labelling_of(setup: Setup, seen: DistilledSet) -> Labelling:
    """What labels the images of a distilled set as a network sees it."""
    return Labelling(
        images=seen.images.to(setup.device),
        labels=seen.labels.to(setup.device),
        counts=setup.data.counts,
        trained=teacher_training(setup),
        component=setup.component,
        seed=setup.config.run.seed,
        device=setup.device,
        keep_going=setup.keep_going,
    )
