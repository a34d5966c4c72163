"""How long the classifiers of a run will take to train, measured on a few steps before the run takes its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ltdd_core.evaluation.lines import Line
from ltdd_core.setup import DISTILLED, ORIGINAL, Setup
from ltdd_core.training.measuring import seconds_of_training


def training_ahead(
    setup: Setup, lines: Sequence[Line], distilled: int, recipe: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Seconds of each training of a network that lines of a table need, by the set that trains it.

    A stage of a head is taken to train one network, so this is a guess for heads that train more, or that find one
    trained already.  Nothing is said of compiled networks, of which compiling takes most of the time.

    Args:
        setup: of the run.
        lines: those whose classifiers are not trained yet.
        distilled: how many images the distilled set will have.
        recipe: how the method wants networks to be trained on them.
    """
    if setup.config.compute.compile:
        return {}
    training = setup.config.training
    sizes = {ORIGINAL: len(setup.data.train_labels), DISTILLED: distilled}
    options = {ORIGINAL: training.original, DISTILLED: training.on_distilled(recipe)}
    ahead: dict[str, list[float]] = {}
    for name in (ORIGINAL, DISTILLED):
        trainings = sum(line.sets.count(name) for line in lines)
        if trainings:
            seconds = seconds_of_training(setup.trainer(), setup.original, options[name], sizes[name])
            ahead[name] = [seconds] * trainings
    return ahead
