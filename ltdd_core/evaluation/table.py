"""The result table of a run: each line's classifier is trained, run over the test images, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.calibration import at_temperature, best_temperature
from ltdd_core.evaluation.controls import TEACHER, control_set, teacher_scores
from ltdd_core.evaluation.head import Classifier, ClassifierHead
from ltdd_core.evaluation.intervals import RowIntervals, row_intervals
from ltdd_core.evaluation.labelling import training_set_of
from ltdd_core.evaluation.lines import Line, lines_of
from ltdd_core.evaluation.metrics import Row, calibration_error, row
from ltdd_core.evaluation.predictions import PREDICTIONS, Scores, load_predictions, save_predictions
from ltdd_core.evaluation.saving import Saving, saving_of
from ltdd_core.evaluation.stored import TrainedClassifier, class_finder, file_name, save_classifier
from ltdd_core.networks.stored import Unstorable
from ltdd_core.runs.costs import note_costs, stored_costs
from ltdd_core.runs.devices import give_back_freed_memory
from ltdd_core.runs.distilled import DistilledSet
from ltdd_core.runs.facts import versions
from ltdd_core.runs.folder import CLASSIFIERS
from ltdd_core.setup import DISTILLED, ORIGINAL, Setup
from ltdd_core.storage import writing
from ltdd_core.training.sets import TrainingSet
from ltdd_core.training.trainer import Trainer


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


def result_table(
    setup: Setup, distilled: DistilledSet, folder: Path, lines: Sequence[Line] | None = None
) -> ResultTable:
    """The table of a run, with the lines of its configuration unless others are given.

    The classifiers and their test predictions are kept in ``folder``, and a line whose predictions are there already is
    not trained again.  The group
    accuracy of a direct line is that of its predicted classes under the partition of the multi-stage line.
    """
    lines = lines_of(setup.config, setup.catalog) if lines is None else lines
    if not lines:
        return ResultTable([], [], None, None)
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
    rows = [row_of(line, kept[line.name], setup, distilled, groups) for line in lines]
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
    trainer, fit = fitting(line, setup, distilled)
    classifier = fit(trainer)
    give_back_freed_memory()
    temperature = None
    if setup.validation is not None:
        unseen = trainer.outputs(classifier.log_probabilities, setup.validation)
        temperature = best_temperature(unseen, setup.validation.labels)
    log_p = trainer.outputs(classifier.log_probabilities, setup.test)
    return classifier, Scores(log_p, classifier.groups, temperature, trainer.ledger.total)


def fitting(
    line: Line, setup: Setup, distilled: DistilledSet | None
) -> tuple[Trainer, Callable[[Trainer], Classifier]]:
    """The trainer of a line that is not the teacher's, and what fits the line's classifier with it."""

    def small(distilled: DistilledSet) -> TrainingSet:
        return (
            training_set_of(setup, distilled) if line.control is None else control_set(line.control, setup, distilled)
        )

    sets = [setup.original if name == ORIGINAL or distilled is None else small(distilled) for name in line.sets]
    trainer = setup.trainer({} if distilled is None else distilled.recipe).changed(validation=setup.validation)

    def fit(trainer: Trainer) -> Classifier:
        head: ClassifierHead = line.head.make()
        return head.fit(sets, trainer)

    return trainer, fit


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
    row = row_of(line, scores, setup, distilled, scores.groups).to_json()
    facts: dict[str, Any] = {
        "row": {key: value for key, value in row.items() if key != "confusion"},
        "data": {
            "name": data.name,
            "test_counts": list(data.test_counts),
            **({} if data.values is None else {"range": list(data.values)}),
        },
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


def row_of(line: Line, scores: Scores, setup: Setup, distilled: DistilledSet | None, groups: Tensor | None) -> Row:
    """The row of a line, from what its classifier says about the test images.

    Args:
        line: that the row answers.
        scores: of its classifier.
        setup: with the long-tailed set, and the test distributions that the classifier is scored on, too.
        distilled: the distilled set, if there is one.
        groups: the partition whose group accuracy is told, int64 ``[classes]``.
    """
    data, test_imbalances = setup.data, setup.config.run.test_imbalances
    images, said, labels = line.images(data, distilled), scores.log_probabilities, data.test_labels
    return row(line.name, images, said, labels, data.counts, groups, scores.cost, test_imbalances)


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
