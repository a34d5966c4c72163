"""What is known of each classifier of a grid: one file each, written as soon as it is known.

A file holds the log-probabilities ``[N, classes]`` on the test images, the labels int64 ``[N]``, the class counts
of the long-tailed set and, where the classifier has a partition, ``groups``; so a table needs no images.  It also holds
a digest of the long-tailed set, so that no row mixes two of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, tensor

from ltdd_core.bench.grid import CellLine, deciding
from ltdd_core.config.model import differences
from ltdd_core.config.validation import validate_options
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.metrics import Row, group_accuracy, row
from ltdd_core.evaluation.predictions import TRAIN_AGAIN, Scores
from ltdd_core.runs.costs import as_json
from ltdd_core.storage import load_tensors, save_tensors, writing
from ltdd_core.training.cost import TrainingCost

LINES = "lines"


@dataclass(frozen=True)
class StoredPrediction:
    """What a file holds: what a classifier predicted for the test images, and what a table needs beside it."""

    log_probabilities: Tensor
    """float32 ``[N, classes]``."""
    labels: Tensor
    """The true class of each test image, int64 ``[N]``."""
    counts: tuple[int, ...]
    """Training images of each class of the long-tailed set."""
    groups: Tensor | None
    """The group of each class, int64 ``[classes]``; None where the classifier has no partition."""
    class_names: tuple[str, ...]
    images: int
    """Images that trained the classifier, over all its stages."""
    data: str | None
    """The digest of the long-tailed set; None in the file of an earlier version."""
    cost: TrainingCost | None
    """Of training the classifier; None in the file of an earlier version."""

    def check(self) -> None:
        """See that everything fits together.

        Raises:
            InputError: saying what does not.
        """
        images, classes = len(self.labels), len(self.class_names)
        Scores(self.log_probabilities, self.groups).check(images, classes)
        if (
            self.labels.dtype != torch.int64
            or self.labels.dim() != 1
            or self.labels.min() < 0
            or self.labels.max() >= classes
        ):
            raise InputError(f"labels must be int64, from 0 to {classes - 1}")
        if len(self.counts) != classes or not all(type(count) is int and count > 0 for count in self.counts):
            raise InputError(f"counts must be {classes} whole numbers above 0")


@dataclass(frozen=True)
class ScoredPrediction:
    """What a table needs of a classifier, without its predictions, which would fill the memory in a large grid."""

    scores: Row
    """Without a group accuracy."""
    groups: Tensor | None
    """The group of each class, int64 ``[classes]``; None where the classifier has no partition."""
    class_names: tuple[str, ...]
    data: str | None
    """The digest of the long-tailed set; None in the file of an earlier version."""

    def row(self, name: str, groups: Tensor | None) -> Row:
        """Its scores, the group accuracy under a partition."""
        if groups is None:
            return replace(self.scores, name=name)
        return replace(self.scores, name=name, group_accuracy=group_accuracy(tensor(self.scores.confusion), groups))


class StoredPredictions:
    """The files of all classifiers of a grid; each is read and scored once."""

    def __init__(self, out: Path) -> None:
        self.folder = out / LINES
        self._read: dict[tuple[str, tuple[float, ...]], ScoredPrediction] = {}
        self.damaged: dict[str, str] = {}
        """Why a file could not be read, by its name."""

    def has(self, line: CellLine) -> bool:
        """Whether it was trained."""
        return (self.folder / line.file).exists()

    def keep(self, line: CellLine, scores: Scores, data: LongTailedSet, images: int, facts: dict[str, Any]) -> None:
        """Write what a classifier said; ``facts`` say how it came about.

        Raises:
            InputError: it cannot be written, or does not fit the data.
        """
        scores.check(len(data.test_labels), data.classes)
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "log_probabilities": scores.log_probabilities,
            "labels": data.test_labels,
            "counts": torch.tensor(data.counts),
        }
        if scores.groups is not None:
            tensors["groups"] = scores.groups
        facts = {**facts, "class_names": list(data.class_names), "images": images, "data": data.digest}
        if scores.cost is not None:
            facts["cost"] = as_json(scores.cost)
        save_tensors(self.folder / line.file, tensors, facts)

    def scores(self, line: CellLine) -> Scores:
        """As they were kept.

        Raises:
            InputError: the file is damaged.
        """
        kept = self._load(line)
        return Scores(kept.log_probabilities, kept.groups, cost=kept.cost)

    def get(self, line: CellLine) -> ScoredPrediction | None:
        """None if it was not trained yet, or if its file is damaged, which is noted."""
        imbalances = line.config.run.test_imbalances
        known = (line.file, imbalances)
        if known not in self._read and line.file not in self.damaged and self.has(line):
            try:
                self._read[known] = _scored(self._load(line), imbalances)
            except InputError as error:
                advice = "" if TRAIN_AGAIN in str(error) else f" {TRAIN_AGAIN}"
                self.damaged[line.file] = f"{error}{advice}"
        return self._read.get(known)

    def check_data(self, lines: Iterable[CellLine], data: LongTailedSet) -> None:
        """See that what is known of these classifiers is about these images; a file of an earlier version does not say.

        Raises:
            InputError: naming the file of other images.
        """
        for line in lines:
            stored = self.get(line)
            if stored is not None and stored.data not in (None, data.digest):
                path = self.folder / line.file
                raise InputError(f"{path} is of other images: the data have changed since. {TRAIN_AGAIN}")

    def groups(self, lines: Sequence[CellLine]) -> Tensor | None:
        """The partition of the first of these classifiers that has one."""
        predictions = filter(None, map(self.get, lines))
        return next((stored.groups for stored in predictions if stored.groups is not None), None)

    def _load(self, line: CellLine) -> StoredPrediction:
        path = self.folder / line.file
        tensors, metadata = load_tensors(path)
        try:
            facts: _Facts = validate_options((), _Facts, metadata)
            kept = StoredPrediction(
                tensors["log_probabilities"],
                tensors["labels"],
                tuple(tensors["counts"].tolist()),
                tensors.get("groups"),
                tuple(facts.class_names),
                facts.images,
                facts.data,
                facts.cost,
            )
            kept.check()
        except (InputError, KeyError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}). {TRAIN_AGAIN}") from error
        _check_same(path, line, facts.configuration)
        return kept


def _scored(stored: StoredPrediction, test_imbalances: Sequence[float]) -> ScoredPrediction:
    predicted = (stored.log_probabilities, stored.labels, stored.counts)
    scores = row("", stored.images, *predicted, cost=stored.cost, test_imbalances=test_imbalances)
    return ScoredPrediction(scores, stored.groups, stored.class_names, stored.data)


def _check_same(path: Path, line: CellLine, stored: dict[str, Any] | None) -> None:
    """Refuse a classifier of a version with other defaults: the names of files only tell what differs from them."""
    if stored is None:
        return
    config, head = line.config, line.line.head
    now = deciding(line.line, config.science(), head.to_tree())
    changed = deciding(line.line, config.deciding_changes(), head.changes())
    try:
        changes = differences(deciding(line.line, stored, stored["head"]), now, changed)
    except (KeyError, AttributeError) as error:
        raise InputError(f"{path}: its configuration is damaged. {TRAIN_AGAIN}") from error
    for key, how in changes.items():
        raise InputError(f"{path} is of another configuration: {key} {how}. {TRAIN_AGAIN}")


class _Facts(BaseModel):
    """What is read of the metadata."""

    model_config = ConfigDict(strict=True)

    class_names: list[str]
    images: int = Field(ge=1)
    configuration: dict[str, Any] | None = None
    cost: TrainingCost | None = None
    data: str | None = None
