"""Give a distilled set soft labels, and train on it with the labels that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ltdd_core.config.model import Selection
from ltdd_core.config.resolve import select
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.labeller import Labeller, Labelling
from ltdd_core.evaluation.teachers import teacher_training
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.setup import Setup
from ltdd_core.training.sets import TrainingSet


def labelled(setup: Setup, distilled: DistilledSet) -> DistilledSet:
    """A distilled set with the labels of the configured labeller, if there is one.

    Raises:
        InputError: the labeller does not suit the set.
        RunFailed: the training of a teacher diverged.
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
    soft = labeller.label(seen.images.to(setup.device))
    soft = replace(soft, values=soft.values.detach().float().cpu())
    return replace(distilled, soft_labels=soft, labeller=None, teacher_bytes=0, recipe=recipe)


def training_set_of(setup: Setup, distilled: DistilledSet) -> TrainingSet:
    """A distilled set, ready to train on with the labels that it has.

    Raises:
        InputError: its images need a decoder, or its labels a labeller, that is not installed.
    """
    data = setup.distilled(distilled)
    if distilled.labeller is None:
        return data
    chosen = labeller_of(setup, distilled.labeller)
    labeller = prepared(setup, chosen, distilled.decoded(setup.catalog))
    return replace(data, view_labels=labeller.label)


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
    data: LongTailedSet = setup.data
    labeller: Labeller = chosen.make()
    labeller.prepare(
        Labelling(
            images=seen.images.to(setup.device),
            labels=seen.labels.to(setup.device),
            counts=data.counts,
            trained=teacher_training(setup),
            component=setup.component,
            seed=setup.config.run.seed,
            device=setup.device,
            keep_going=setup.stop.check,
        )
    )
    return labeller
