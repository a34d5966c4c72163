"""Train classifiers on a distilled set, alone or together with the original one, and score them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ltdd_core.config.model import DEFAULT_NAMES, Config, Selection
from ltdd_core.config.resolve import select
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.calibration import at_temperature, best_temperature
from ltdd_core.evaluation.controls import TEACHER, control_set, images_of_control, teacher_of, teacher_scores
from ltdd_core.evaluation.head import Classifier, ClassifierHead, Recipe
from ltdd_core.evaluation.intervals import RowIntervals, row_intervals
from ltdd_core.evaluation.labelling import training_set_of
from ltdd_core.evaluation.metrics import Row, average, calibration_error, costs_of, parts_of, row
from ltdd_core.evaluation.predictions import PREDICTIONS, Scores, load_predictions, save_predictions
from ltdd_core.evaluation.saving import Saving, saving_of
from ltdd_core.evaluation.shown import HEADINGS, NumberTable, cost_cells, number
from ltdd_core.evaluation.stored import TrainedClassifier, class_finder, file_name, save_classifier
from ltdd_core.networks.store import NetworkStore
from ltdd_core.networks.stored import Unstorable
from ltdd_core.plugging.catalog import Catalog
from ltdd_core.runs.costs import note_costs, stored_costs
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.facts import versions
from ltdd_core.runs.folder import CLASSIFIERS
from ltdd_core.setup import DISTILLED, ORIGINAL, Setup
from ltdd_core.storage import writing
from ltdd_core.training.sets import TrainingSet


@dataclass(frozen=True)
class Line:
    """A line of a result table before it is known: a head, and the set that trains each of its stages."""

    name: str
    """The line, as the table calls it."""
    head: Selection
    """The classifier head."""
    sets: tuple[str, ...]
    """``original`` or ``distilled`` for each stage of the head."""
    control: str | None = None
    """What stands in the place of the distilled set, with its labels; see :mod:`ltdd_core.evaluation.controls`."""

    def images(self, data: LongTailedSet, distilled: DistilledSet | None) -> int:
        """How many images train the head, over all its stages."""
        size = {"original": len(data.train_labels), "distilled": 0 if distilled is None else len(distilled.labels)}
        if self.control is not None:
            size["distilled"] = images_of_control(self.control, data, distilled)
            if self.control == TEACHER:
                return size["original"]
        return sum(size[name] for name in self.sets)


def check_recipe(config: Config) -> tuple[str, ...]:
    """Which set trains which stage of the configured head.

    Raises:
        InputError: recipe and head do not go together.
    """
    recipe: Recipe = config.recipe.make()
    return recipe.assign(config.head.component.stages)


def lines_of(config: Config, catalog: Catalog) -> list[Line]:
    """The lines that a run answers, the head that was asked for last.

    A head of one stage is trained on the original and on the distilled set.  Beside one of several stages stand the
    plain head on each set, and on the original set the opponent that the head names.

    Raises:
        InputError: recipe and head do not go together, or the opponent is not installed.
    """
    if config.head.component.stages == 1:
        return [_one_stage(config.head, (data,)) for data in ("original", "distilled")]
    plain = select(catalog, "head", {"name": DEFAULT_NAMES["head"]})
    lines = [_one_stage(plain, ("original",))]
    opponent = config.head.component.opponent
    if opponent not in (None, plain.name):
        lines.append(_one_stage(select(catalog, "head", {"name": opponent}), ("original",)))
    return [*lines, _one_stage(plain, ("distilled",)), line_of(config)]


def line_of(config: Config) -> Line:
    """The configured head and recipe.

    Raises:
        InputError: they do not go together.
    """
    sets = check_recipe(config)
    if config.head.component.stages > 1:
        return Line(f"{config.head.component.title}, {' + '.join(sets)}", config.head, sets)
    return _one_stage(config.head, sets)


def control_of(line: Line, control: str) -> Line:
    """The line of a control: what the classifier of a line would be with other images in the place of the distilled.

    Raises:
        InputError: no distilled image trains the classifier.
    """
    if DISTILLED not in line.sets:
        raise InputError(f"no distilled image trains {line.name!r}, so it has no control.")
    if control == TEACHER:
        return replace(line, name=TEACHER, control=control)
    where, _, how = line.name.rpartition(DISTILLED)
    return replace(line, name=f"{where}{control}{how}", control=control)


def _one_stage(head: Selection, sets: tuple[str, ...]) -> Line:
    how = "direct" if head.name == DEFAULT_NAMES["head"] else head.component.title
    return Line(f"{sets[0]}, {how}", head, sets)


@dataclass(frozen=True)
class ResultTable:
    """The table of a run."""

    rows: list[Row]
    """Of each line."""
    intervals: list[RowIntervals]
    """Of each row, over the test images."""
    groups: Tensor | None
    """The partition, int64 ``[classes]``, if a classifier has one."""
    saving: Saving | None
    """What the distilled set saves in training; None where that is not known."""


def result_table(setup: Setup, distilled: DistilledSet, folder: Path) -> ResultTable:
    """The table of a run.

    The classifiers and their test predictions are kept in ``folder``, and a line whose predictions are there already is
    not trained again.  The group
    accuracy of a direct line is that of its predicted classes under the partition of the multi-stage line.
    """
    lines = lines_of(setup.config, setup.catalog)
    kept = kept_scores(folder, lines, setup.data)
    groups = None
    for line in lines:
        if line.name not in kept:
            classifier, kept[line.name] = trained(line, setup, distilled)
            if setup.config.compute.keep and classifier is not None:
                keep_classifier(folder / CLASSIFIERS, line.name, line, classifier, kept[line.name], setup, distilled)
            keep_scores(folder, kept)
        if kept[line.name].groups is not None:
            groups = kept[line.name].groups
    labels = setup.data.test_labels
    right = torch.stack([kept[line.name].log_probabilities.argmax(1) == labels for line in lines])
    rows = [_row(line, kept[line.name], setup.data, distilled, groups) for line in lines]
    costs = {sets: kept[line.name].cost for line in reversed(lines) for sets in [line.sets]}
    saving = saving_of(costs.get((ORIGINAL,)), costs.get((DISTILLED,)), stored_costs(folder).distilling)
    return ResultTable(rows, row_intervals(right.numpy(), labels.numpy()), groups, saving)


def scores_of(line: Line, setup: Setup, distilled: DistilledSet | None) -> Scores:
    """What the classifier of a line says about the test images."""
    return trained(line, setup, distilled)[1]


def trained(line: Line, setup: Setup, distilled: DistilledSet | None) -> tuple[Classifier | None, Scores]:
    """Train the classifier of a line and run it over the test images; some lines need no distilled set.

    That of a teacher is a function of images, which no file could keep: None.  Where there are validation images, they
    give the temperature of the classifier.
    """
    if line.control == TEACHER and distilled is not None:
        return None, Scores(teacher_scores(setup, distilled), None, cost=setup.beforehand.total)

    def small(distilled: DistilledSet) -> TrainingSet:
        return (
            training_set_of(setup, distilled) if line.control is None else control_set(line.control, setup, distilled)
        )

    sets = [setup.original if name == ORIGINAL or distilled is None else small(distilled) for name in line.sets]
    trainer = setup.trainer({} if distilled is None else distilled.recipe).changed(validation=setup.validation)
    head: ClassifierHead = line.head.make()
    classifier = head.fit(sets, trainer)
    temperature = None
    if setup.validation is not None:
        unseen = trainer.outputs(classifier.log_probabilities, setup.validation)
        temperature = best_temperature(unseen, setup.validation.labels)
    log_p = trainer.outputs(classifier.log_probabilities, setup.test)
    return classifier, Scores(log_p, classifier.groups, temperature, trainer.ledger.total)


def keep_classifier(
    folder: Path,
    name: str,
    line: Line,
    classifier: Classifier,
    scores: Scores,
    setup: Setup,
    distilled: DistilledSet | None,
) -> None:
    """Write a classifier with all that is needed to use it; one that no file can keep is named in a warning.

    Args:
        folder: where its file is put; it is made where there is none.
        name: of the file, and of the classifier in it.
        line: that it answers.
        classifier: trained.
        scores: what it says about the test images.
        setup: that it was trained with.
        distilled: the distilled set, if there is one.

    Raises:
        WriteError: the file cannot be written.
    """
    config, data = setup.config, setup.data
    row = _row(line, scores, data, distilled, scores.groups).to_json()
    facts: dict[str, Any] = {
        "row": {key: value for key, value in row.items() if key != "confusion"},
        "data": {"name": data.name, "test_counts": list(data.test_counts)},
        "distilled": None if set(line.sets) == {ORIGINAL} or distilled is None else about(distilled),
        **({} if line.control is None else {"control": line.control}),
        "network": config.network.to_tree(),
        "head": line.head.to_tree(),
        "sets": list(line.sets),
        "seed": config.run.seed,
        "versions": versions(config),
    }
    if scores.temperature is not None:
        facts["calibration"] = _calibration(scores, data)
    kept = TrainedClassifier(
        classifier,
        line=name,
        class_names=data.class_names,
        groups=scores.groups,
        counts=data.counts,
        images=row["images"],
        image_shape=data.image_shape,
        normalisation=data.normalisation,
        facts=facts,
        temperature=1.0 if scores.temperature is None else scores.temperature,
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        save_classifier(folder / file_name(name), kept, class_finder(setup.catalog.plugins))
    except Unstorable as error:
        setup.display.warn(f"the classifier {name!r} is not kept in a file: {error}.")


def about(distilled: DistilledSet) -> dict[str, Any]:
    """What is remembered of the distilled set of a classifier: its method, where that is known, and its size."""
    method: Any = distilled.origin
    for key in ("configuration", "matcher", "name"):
        method = method.get(key) if isinstance(method, Mapping) else None
    return {"method": method if isinstance(method, str) else None, "images": len(distilled.labels)}


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
    setup: Setup, networks: Sequence[Selection], repeats: int, measure: Callable[[Setup], Measured]
) -> Iterator[tuple[str, list[Measured]]]:
    """What is measured with each network, ``repeats`` seeds from that of the configuration on.

    The networks of a seed are let go of after it; a store with a folder keeps them there.
    """
    first = setup.config.run.seed
    for network in networks:
        setups = (
            setup.changed(network=network, seed=seed, store=NetworkStore(setup.store.folder))
            for seed in range(first, first + repeats)
        )
        yield network.shown, [measure(variant) for variant in setups]


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
    configs = [replace(setup.config, head=head) for head in heads or [setup.config.head]]
    plain = [line_of(config) for config in configs]
    lines = [each for line in plain for each in (line, *(control_of(line, control) for control in controls))]
    configs = [config for config in configs for _ in range(1 + len(controls))]
    trained_on = {name for line in lines for name in line.sets}
    if distilled is not None:
        setup = fitted(setup, distilled)
        if trained_on != {ORIGINAL} and (holds := setup.config.training.distilled.left_of(distilled.recipe)):
            setup.display.recipe(holds)
    elif trained_on != {ORIGINAL}:
        raise InputError(f"recipe {setup.config.recipe.name!r} trains on a distilled set, and there is none.")
    seeds = tuple(range(setup.config.run.seed, setup.config.run.seed + repeats))
    alone = len(lines) * len(networks) * repeats == 1

    def name_of(line: Line, network: str, seed: int) -> str:
        return line.name if alone else f"{line.name}, {network}, seed {seed}"

    _check_different([name_of(line, network.shown, seed) for line in lines for network in networks for seed in seeds])
    for network in networks:
        setup.changed(network=network).check_network()  # before the first of them is trained
    if controls and distilled is not None:
        teacher_of(setup, distilled)  # there before the first classifier is trained, or refused
    for line, of_head in zip(lines, [setup.changed(config=config) for config in configs], strict=True):

        def measure(variant: Setup, line: Line = line) -> Row:
            classifier, said = trained(line, variant, distilled)
            name = name_of(line, variant.config.network.shown, variant.config.run.seed)
            if keep is not None and classifier is not None:
                keep_classifier(keep, name, line, classifier, said, variant, distilled)
            if scores is not None:
                scores[name] = said
            return _row(line, said, variant.data, distilled, said.groups)

        for shown, rows in repeated(of_head, networks, repeats, measure):
            mean, deviation = average(rows)
            names = tuple(name_of(line, shown, seed) for seed in seeds)
            yield Repeated(shown, mean, deviation, repeats, seeds, names, line.control)


def _check_different(names: Sequence[str]) -> None:
    """Refuse two classifiers of the same name, of which one would take the place of the other.

    Raises:
        InputError: naming the first.
    """
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"two classifiers would be called {twice!r}: name each head and each network once.")


def fitted(setup: Setup, distilled: DistilledSet) -> Setup:
    """The same in the colours of a distilled set, which its networks learn; another cut of the data has others.

    Raises:
        InputError: the distilled set is of other classes or image sizes.
    """
    check_fits(setup.data, distilled)
    return setup.changed(normalisation=distilled.normalisation)


def check_fits(data: LongTailedSet, distilled: DistilledSet) -> None:
    """Refuse to score a distilled set on other classes, image sizes or colours than it was made for.

    Raises:
        InputError: saying what differs.
    """
    if data.class_names != distilled.class_names:
        raise InputError(f"data {data.name!r} has other classes than the distilled set.")
    shape = tuple(distilled.images.shape[1:])
    if distilled.decoder is None and data.image_shape != shape:
        raise InputError(f"data {data.name!r} has images {data.image_shape}; the distilled ones are {shape}.")


def _row(line: Line, scores: Scores, data: LongTailedSet, distilled: DistilledSet | None, groups: Tensor | None) -> Row:
    images = line.images(data, distilled)
    return row(line.name, images, scores.log_probabilities, data.test_labels, data.counts, groups, scores.cost)


def _calibration(scores: Scores, data: LongTailedSet) -> dict[str, Any]:
    """The temperature, how many images it was fitted to, and what it does to the calibration error on test images."""
    log_p, temperature = scores.log_probabilities, 1.0 if scores.temperature is None else scores.temperature
    right = log_p.argmax(1) == data.test_labels
    return {
        "temperature": temperature,
        "images": data.validation_count,
        "ece_before": calibration_error(log_p, right),
        "ece_after": calibration_error(at_temperature(log_p, temperature), right),
    }


def kept_scores(folder: Path, lines: Sequence[Line], data: LongTailedSet | None = None) -> dict[str, Scores]:
    """What the run in ``folder`` knows already of these lines, by name; it must fit ``data`` where they are given."""
    size = (None, None) if data is None else (len(data.test_labels), data.classes)
    known, costs = load_predictions(folder / PREDICTIONS, *size), stored_costs(folder).lines
    return {line.name: replace(known[line.name], cost=costs.get(line.name)) for line in lines if line.name in known}


def keep_scores(folder: Path, kept: dict[str, Scores]) -> None:
    """Write what is known of the lines of a run."""
    save_predictions(folder / PREDICTIONS, kept)
    note_costs(folder, lines={name: scores.cost for name, scores in kept.items() if scores.cost is not None})
