"""What the folder of ``ltdd train`` or ``ltdd evaluate`` holds: a table of classifiers without a distillation."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from ltdd_core import InputError
from ltdd_report.damage import read_json, reading
from ltdd_report.documents import ROUNDING, TrainedConfiguration, TrainedFacts, TrainedReport
from ltdd_report.place import CONFIG, FACTS, REPORT
from ltdd_report.reading import NO_METHOD, PREDICTIONS, Record, RunRecord, predictions, read_result, read_run


@dataclass(frozen=True)
class TrainedRecord(Record):
    """A finished table of classifiers; its rows are means over seeds."""

    @property
    def method(self) -> str | None:
        """The method of the distilled set, where one was evaluated; it may be unknown (``?``)."""
        distilled = self.report["distilled"]
        return None if distilled is None else str(distilled["method"] or "?")

    @property
    def title(self) -> str:
        """What trained the classifiers."""
        what = "the long-tailed set itself" if self.method is None else f"a distilled set of {self.method}"
        return f"classifiers trained on {what}, {self.data['name']}"

    def chosen(self) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any]]]:
        """Each row with its head and its network, as sections of a configuration."""
        each = range(1 + len(self.report.get("controls", [])))
        pairs = [(head, network) for head in self.report["heads"] for _ in each for network in self.report["networks"]]
        for row, (head, network) in zip(self.rows, pairs, strict=True):
            yield row, head, network


def read_record(path: Path) -> RunRecord | TrainedRecord:
    """Read a finished run, or a finished folder of ``ltdd train`` or ``ltdd evaluate``.

    Raises:
        InputError: it is neither, or not finished, or a file in it is damaged or belongs to another folder.
    """
    if not _distils_nothing(path):
        return read_run(path)
    if not (path / REPORT).exists():
        again = f"run the command that began it again, with --out {shlex.quote(str(path))}"
        raise InputError(f"{path} is not finished: {again}.")
    if not (path / FACTS).exists():
        raise InputError(f"{path} is of an earlier version of ltdd train, which kept no predictions: train again.")
    report, facts = read_result(path, TrainedReport), read_json(path / FACTS, TrainedFacts)
    record = TrainedRecord(path, _read_config(path), facts["data"], tuple(facts["sessions"]), report)
    if report["data"] != record.data:
        raise InputError(f"{path}: {REPORT} and {FACTS} are about different data.")
    first = (report["heads"][0], report["networks"][0], report["rows"][0]["seeds"][0])
    config = record.config
    if first != (config["head"], config["network"], config["seed"]):
        raise InputError(f"{path}: {CONFIG} and {REPORT} are of two folders: head, network or seed differ.")
    return record


def classifiers(record: TrainedRecord, labels: np.ndarray) -> Iterator[tuple[int, int, Tensor]]:
    """Of each classifier the number of its row, its seed and its log-probabilities, float32 ``[N, classes]``.

    Args:
        record: whose classifiers.
        labels: of the test images, int64 ``[N]``.

    Raises:
        InputError: predictions are missing, damaged, or not those of the table.
    """
    said = predictions(record, [name for row in record.rows for name in row["classifiers"]])
    for number, row in enumerate(record.rows):
        right = np.zeros(len(row["per_class"]))
        for name in row["classifiers"]:
            hit = labels[said[name].argmax(1).numpy() == labels]
            right += np.bincount(hit, minlength=len(right)) / row["repeats"]
        if not np.allclose(right, np.diagonal(row["confusion"]), rtol=0, atol=ROUNDING):
            what = f"the row {row['name']!r} of {row['network']!r} has other accuracies"
            raise InputError(f"{record.path / PREDICTIONS} does not go with {REPORT}: {what}.")
        for seed, name in zip(row["seeds"], row["classifiers"], strict=True):
            yield number, seed, said[name]


def _distils_nothing(path: Path) -> bool:
    """Whether a folder is one of classifiers alone; what is damaged is for the reader of runs to say."""
    try:
        tree = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(tree, dict) and "head" in tree and tree.get("matcher", NO_METHOD) == NO_METHOD


def _read_config(path: Path) -> Mapping[str, Any]:
    file = path / CONFIG
    with reading(file):
        tree: Mapping[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        TrainedConfiguration.model_validate(tree)
        json.dumps(tree)  # plain data
    return tree
