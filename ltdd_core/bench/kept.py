"""What is known of each classifier of a grid: one file each, written as soon as it is known.

A file holds the log-probabilities ``[N, classes]`` on the test images, the labels int64 ``[N]``, the class counts
of the long-tailed set and, where the classifier has a partition, ``groups``; so a table needs no images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ltdd_core.bench.grid import CellLine
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError
from ltdd_core.evaluation.lines import Scores
from ltdd_core.evaluation.metrics import Row, row
from ltdd_core.storage import load_tensors, save_tensors, writing

LINES = "lines"


@dataclass(frozen=True)
class Kept:
    """What a table needs to know of a classifier."""

    log_probabilities: Tensor
    """float32 ``[N, classes]``."""
    labels: Tensor
    counts: tuple[int, ...]
    groups: Tensor | None
    class_names: tuple[str, ...]
    images: int

    def row(self, name: str, groups: Tensor | None) -> Row:
        """Its scores, the group accuracy under a partition."""
        return row(name, self.images, self.log_probabilities, self.labels, self.counts, groups)


class KeptLines:
    """The files of all classifiers of a grid."""

    def __init__(self, out: Path) -> None:
        self.folder = out / LINES
        self._read: dict[str, Kept] = {}
        self.damaged: dict[str, str] = {}
        """Why a file could not be read, by its name."""

    def has(self, line: CellLine) -> bool:
        """Whether it was trained."""
        return (self.folder / line.file).exists()

    def keep(self, line: CellLine, scores: Scores, data: LongTailedSet, images: int, facts: dict[str, Any]) -> None:
        """Write what a classifier said; ``facts`` say how it came about.

        Raises:
            InputError: it cannot be written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            "log_probabilities": scores.log_probabilities,
            "labels": data.test_labels,
            "counts": torch.tensor(data.counts),
        }
        if scores.groups is not None:
            tensors["groups"] = scores.groups
        facts = {**facts, "class_names": list(data.class_names), "images": images}
        save_tensors(self.folder / line.file, tensors, facts)

    def scores(self, line: CellLine) -> Scores:
        """As they were kept."""
        tensors, _ = load_tensors(self.folder / line.file)
        return Scores(tensors["log_probabilities"], tensors.get("groups"))

    def get(self, line: CellLine) -> Kept | None:
        """None if it was not trained yet, or if its file is damaged, which is noted."""
        if line.file not in {*self._read, *self.damaged} and self.has(line):
            try:
                self._read[line.file] = self._load(self.folder / line.file)
            except InputError as error:
                self.damaged[line.file] = f"{error} Delete the file, and it is trained again."
        return self._read.get(line.file)

    def groups(self, lines: Sequence[CellLine]) -> Tensor | None:
        """The partition of the first of these classifiers that has one."""
        known = (self.get(line) for line in lines)
        return next((one.groups for one in known if one is not None and one.groups is not None), None)

    def _load(self, path: Path) -> Kept:
        tensors, facts = load_tensors(path)
        try:
            return Kept(
                tensors["log_probabilities"],
                tensors["labels"],
                tuple(tensors["counts"].tolist()),
                tensors.get("groups"),
                tuple(facts["class_names"]),
                int(facts["images"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: part of what is known of a classifier is missing.") from error
