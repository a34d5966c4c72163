"""Lines over several networks and seeds: what their classifiers come to on average, and how much they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from ltdd_core.config.model import Config, Selection
from ltdd_core.errors import InputError
from ltdd_core.evaluation.controls import TEACHER, teacher_of
from ltdd_core.evaluation.lines import Line, control_of, line_of
from ltdd_core.evaluation.metrics import Row, average, costs_of, parts_of
from ltdd_core.evaluation.predictions import Scores
from ltdd_core.evaluation.shown import HEADINGS, NumberTable, cost_cells, number
from ltdd_core.evaluation.table import fitted, fitting, keep_classifier, row_of, trained
from ltdd_core.networks.store import NetworkStore
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.setup import ORIGINAL, Setup
from ltdd_core.training.together import Ask, most_at_once, train_ahead


@dataclass(frozen=True)
class Repeated:
    """One line of a result table over several seeds."""

    network: str
    """The name of the network."""
    mean: Row
    """Means over the seeds, in per cent."""
    deviation: Row
    """Population standard deviations over the seeds, in percentage points."""
    repeats: int
    """Number of seeds."""
    seeds: tuple[int, ...]
    """The seeds."""
    classifiers: tuple[str, ...]
    """What the classifier of each seed is called, in the name of its file and in ``predictions.safetensors``."""
    control: str | None = None
    """What stands in the place of the distilled set, in the row of a control."""

    def to_json(self) -> dict[str, Any]:
        """The mean row, with the deviation over seeds beside it."""
        spread = {key: value for key, value in self.deviation.to_json().items() if key not in ("name", "images")}
        more: dict[str, Any] = {"network": self.network, "repeats": self.repeats, "seeds": [*self.seeds]}
        if self.control is not None:
            more["control"] = self.control
        return {**self.mean.to_json(), **more, "classifiers": [*self.classifiers], "deviation": spread}

    @staticmethod
    def table(lines: Sequence[Repeated]) -> NumberTable:
        """Mean and deviation over seeds, a line for each network, or for each head and network."""
        repeats, means = lines[0].repeats, [line.mean for line in lines]
        over = "one seed" if repeats == 1 else f"{repeats} seeds, ± deviation over them"
        alike = len({(mean.name, mean.images) for mean in means}) == 1
        shown = ["accuracy", "std", *parts_of(means), "worst"]
        if any(mean.group_accuracy is not None for mean in means):
            shown.append("group_accuracy")
        costs = costs_of(means)
        numbers = [[*map(line._cell, shown), *cost_cells(line.mean, costs)] for line in lines]
        shown.extend(costs)
        headings = [HEADINGS.get(column, column) for column in shown]
        title = f"per cent, mean of {over}"
        if alike:
            body = [[line.network, *cells] for line, cells in zip(lines, numbers, strict=True)]
            title = f"{means[0].name}, {means[0].images} images; {title}"
            return NumberTable(title, ["name", *shown], ["network", *headings], body)
        body = [
            [f"{line.mean.name}, {line.network}", str(line.mean.images), *cells]
            for line, cells in zip(lines, numbers, strict=True)
        ]
        return NumberTable(title, ["name", "images", *shown], ["trained on, network", "images", *headings], body)

    def _cell(self, column: str) -> str:
        value, deviation = getattr(self.mean, column), getattr(self.deviation, column)
        return f"{number(value)}{f'±{deviation:.1f}' if self.repeats > 1 and value is not None else ''}"

    def __repr__(self) -> str:
        seeds = "1 seed" if self.repeats == 1 else f"{self.repeats} seeds"
        return f"Repeated({self.mean.name!r} on {self.network}, {seeds}: accuracy {self._cell('accuracy')} %)"

    def _repr_html_(self) -> str:
        return Repeated.table([self]).html()


Measured = TypeVar("Measured")


def repeated(
    setup: Setup,
    networks: Sequence[Selection],
    repeats: int,
    measure: Callable[[Setup], Measured],
    asks: Callable[[Setup], Sequence[Ask]],
) -> Iterator[tuple[str, list[Measured]]]:
    """What is measured with each network, ``repeats`` seeds from that of the configuration on.

    As many seeds are trained at once as may be.  Their networks are let go of after them; a store with a folder keeps
    them there.

    Args:
        setup: of the first seed.
        networks: those to measure with.
        repeats: how many seeds.
        measure: with the setup of a network and a seed.
        asks: what it will train.
    """
    seeds, most = seeds_of(setup, repeats), most_at_once(setup.trainer())
    for network in networks:
        measured: list[Measured] = []
        for begin in range(0, repeats, most):
            setups = [
                setup.changed(network=network, seed=seed, store=NetworkStore(setup.store.folder))
                for seed in seeds[begin : begin + most]
            ]
            if len(setups) > 1:
                train_ahead([ask for variant in setups for ask in asks(variant)])
            while setups:
                measured.append(measure(setups.pop(0)))
        yield network.shown, measured


def seeds_of(setup: Setup, repeats: int) -> range:
    """So many seeds, from that of the configuration on."""
    return range(setup.config.run.seed, setup.config.run.seed + repeats)


def trained_apart(
    setups: Sequence[Setup],
    networks: Sequence[Selection],
    repeats: int,
    asks: Callable[[int, Setup], Sequence[Ask]],
) -> None:
    """Let the processes of a run train the networks of a table apart, for :func:`repeated` to find them.

    Args:
        setups: one for each head, with the same store.
        networks: as of :func:`repeated`.
        repeats: likewise.
        asks: what a place among ``setups`` will train, with the setup of a network and a seed.
    """

    def training(place: int, network: Selection, seed: int, store: NetworkStore) -> None:
        for ask in asks(place, setups[place].changed(network=network, seed=seed, store=store)):
            ask.work(ask.trainer)

    first = setups[0]
    of_each = product(range(len(setups)), networks, seeds_of(first, repeats))
    first.store.apart([partial(training, *each) for each in of_each], first.keep_going)


def repeated_rows(
    setup: Setup,
    distilled: DistilledSet | None,
    networks: Sequence[Selection],
    repeats: int,
    *,
    heads: Sequence[Selection] = (),
    controls: Sequence[str] = (),
    keep: Path | None = None,
    scores: dict[str, Scores] | None = None,
) -> Iterator[Repeated]:
    """Score each head, with the configured recipe, on each network and seed.

    Args:
        setup: the configuration, its first seed among it.
        distilled: the distilled set; None where the recipe needs none.
        networks: those to train.
        repeats: how many seeds.
        heads: of the classifiers; the configured one unless given.
        controls: those that each head has besides; see :mod:`ltdd_core.evaluation.controls`.
        keep: folder in which the classifiers are kept.  Where there are several, network and seed are in their names.
        scores: gets what each classifier says of the test images, by the name of the classifier.

    Raises:
        InputError: the distilled set is not of this data set, or there is none and the recipe asks for it; or two
            classifiers would have the same name.
    """
    configs, lines = _lines_of(setup, heads, controls)
    setup = _in_colours_of(setup, distilled, lines)
    seeds = tuple(seeds_of(setup, repeats))
    alone = len(lines) * len(networks) * repeats == 1

    def name_of(line: Line, network: str, seed: int) -> str:
        return line.name if alone else f"{line.name}, {network}, seed {seed}"

    _check_different([name_of(line, network.shown, seed) for line in lines for network in networks for seed in seeds])
    _check_can_be_had(setup, networks, distilled if controls else None)
    of_heads = [setup.changed(config=config) for config in configs]

    def asks(place: int, variant: Setup) -> list[Ask]:
        line = lines[place]  # a teacher is there already
        return [] if line.control == TEACHER else [Ask(*fitting(line, variant, distilled))]

    trained_apart(of_heads, networks, repeats, asks)
    for place, (line, of_head) in enumerate(zip(lines, of_heads, strict=True)):

        def measure(variant: Setup, line: Line = line) -> Row:
            classifier, said = trained(line, variant, distilled)
            name = name_of(line, variant.config.network.shown, variant.config.run.seed)
            if keep is not None and classifier is not None:
                keep_classifier(keep, name, line, classifier, said, variant, distilled)
            if scores is not None:
                scores[name] = said
            return row_of(line, said, variant, distilled, said.groups)

        for shown, rows in repeated(of_head, networks, repeats, measure, partial(asks, place)):
            mean, deviation = average(rows)
            names = tuple(name_of(line, shown, seed) for seed in seeds)
            yield Repeated(shown, mean, deviation, repeats, seeds, names, line.control)


def _lines_of(setup: Setup, heads: Sequence[Selection], controls: Sequence[str]) -> tuple[list[Config], list[Line]]:
    """The line of each head, each followed by its controls; and the configuration of each line."""
    of_heads = [replace(setup.config, head=head) for head in heads or [setup.config.head]]
    plain = [line_of(config) for config in of_heads]
    lines = [each for line in plain for each in (line, *(control_of(line, control) for control in controls))]
    return [config for config in of_heads for _ in range(1 + len(controls))], lines


def _in_colours_of(setup: Setup, distilled: DistilledSet | None, lines: Sequence[Line]) -> Setup:
    """The setup as a distilled set needs it; what the set says of training is shown where a line trains on it.

    Raises:
        InputError: the set is not of this data set, or there is none and a line asks for it.
    """
    needed = {name for line in lines for name in line.sets} != {ORIGINAL}
    if distilled is None:
        if needed:
            raise InputError(f"recipe {setup.config.recipe.name!r} trains on a distilled set, and there is none.")
        return setup
    setup = fitted(setup, distilled)
    if needed and (holds := setup.config.training.distilled.left_of(distilled.recipe)):
        setup.display.recipe(holds)
    return setup


def _check_can_be_had(setup: Setup, networks: Sequence[Selection], of_controls: DistilledSet | None) -> None:
    """See that all networks can be made, and that the teacher of controls is there, before a classifier is trained.

    Args:
        setup: in the colours of the distilled set.
        networks: those to train.
        of_controls: the distilled set, if there are controls.

    Raises:
        InputError: what there is not.
    """
    for network in networks:
        setup.changed(network=network).check_network()
    if of_controls is not None:
        teacher_of(setup, of_controls)


def _check_different(names: Sequence[str]) -> None:
    """Refuse two classifiers of the same name, of which one would take the place of the other.

    Raises:
        InputError: naming the first.
    """
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"two classifiers would be called {twice!r}: name each head and each network once.")
