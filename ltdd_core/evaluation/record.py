"""A finished run as Python sees it: what its folder holds, each part read when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, NonNegativeFloat, TypeAdapter

from ltdd_core.config.layers import Layer
from ltdd_core.config.resolve import resolve_data
from ltdd_core.data.load import load_long_tailed
from ltdd_core.data.sets import LongTailedSet
from ltdd_core.errors import InputError, either, how_to_set
from ltdd_core.evaluation.confusion import confusion_matrix
from ltdd_core.evaluation.metrics import Row, WithRows, geometric_mean
from ltdd_core.evaluation.predictions import PREDICTIONS, Scores, load_predictions
from ltdd_core.evaluation.shown import Table
from ltdd_core.evaluation.stored import TrainedClassifier, load_classifier
from ltdd_core.plugging.catalog import installed
from ltdd_core.progress import Display, usual_display
from ltdd_core.runs.distilled import DISTILLED_FILE, DistilledSet, load_distilled
from ltdd_core.runs.facts import knows_again
from ltdd_core.runs.folder import CONFIG, FACTS, RESULT, RunFolder


@dataclass(frozen=True, repr=False)
class StoredRun(WithRows):
    """A finished run."""

    path: Path
    """Its folder."""
    config: Mapping[str, Any]
    """Its configuration with every option spelt out; ``configure(**run.config)`` makes the same one again."""
    data: Mapping[str, Any]
    """What is known of its long-tailed set: ``name``, ``classes``, ``counts``, ``test_images``, ``imbalance``, ..."""
    rows: list[Row]
    """The lines of its result table."""
    groups: list[list[str]] | None
    """The class names of each group of a multi-stage classifier; None where there is none."""
    seconds: float
    """Seconds that the process took which finished the run."""

    @cached_property
    def distilled(self) -> DistilledSet:
        """Its distilled set.

        Raises:
            InputError: the file is damaged.
        """
        return load_distilled(self.path)

    @cached_property
    def predictions(self) -> dict[str, Scores]:
        """What the classifier of each line said about the test images, by the name of the line.

        Raises:
            InputError: the file is damaged, or of other data.
        """
        return load_predictions(self.path / PREDICTIONS, self.data.get("test_images"), len(self.data["classes"]))

    def classifier(self, line: str | None = None, *, device: torch.device | str = "cpu") -> TrainedClassifier:
        """The trained classifier of a line.

        Args:
            line: its name; the last line, which is the head that was asked for, unless given.
            device: where it computes.

        Raises:
            InputError: the run kept none, or its file is damaged.
        """
        return load_classifier(self.path, line, device=device)

    def load_data(self, *, root: Path | str | None = None, display: Display | None = None) -> LongTailedSet:
        """Its long-tailed set, from where the run found it.

        Args:
            root: the folder or file of the data, where they have moved.
            display: shows how many images are read; one line unless given, and ``Display()`` shows nothing.

        Raises:
            InputError: the images are not there any more, or have changed.
        """
        layers = [Layer(str(self.path / CONFIG), {"data": dict(self.config["data"])})]
        if root is not None:
            layers.append(Layer(how_to_set("root", root), {"data": {"root": str(root)}}))
        chosen = resolve_data(installed(), layers)
        data = load_long_tailed(chosen.name, chosen.make(), display or usual_display())
        if not knows_again(self.data, data):
            raise InputError(f"{self.path} holds a run on other images than those of the data set {data.name!r} now.")
        return data

    def _title(self) -> str:
        return f"{self.config['matcher']['name']} on {self.data['name']}, in {self.path}"


class _Report(BaseModel):
    """What is read of ``report.json``."""

    rows: list[dict[str, Any]]
    groups: list[list[str]] | None
    seconds: NonNegativeFloat


class _Data(BaseModel, extra="allow"):
    """What every run knows of its data."""

    name: str
    classes: list[str]
    counts: list[int]
    test_images: int
    image_shape: list[int]


class _Facts(BaseModel):
    """What is read of ``run.json``."""

    data: _Data


def read_run(folder: Path | str) -> StoredRun:
    """Read a finished run: configuration and result at once, images, predictions and classifiers when asked for.

    Args:
        folder: of the run, as ``distill`` left it.

    Raises:
        InputError: it is not the folder of a finished run that distilled something, or a file in it is damaged.
    """
    path = Path(folder)
    stored = RunFolder(path)
    if not (path / CONFIG).is_file():
        raise InputError(f"{path} is not the folder of a run.")
    config = stored.stored_config()
    if not isinstance(config.get("matcher"), dict) or not (path / FACTS).is_file():
        raise InputError(f"{path} is not the folder of a run that distilled something.")
    if not (path / RESULT).is_file() or not (path / DISTILLED_FILE).is_file():
        how = either(f"ltdd distill --out {path} --resume", f"distill(..., {how_to_set('resume', True)})")
        raise InputError(f"{path} is not finished: {how} finishes it.")
    report = stored.stored(RESULT, _Report)
    rows = Table(_row(path / RESULT, document) for document in report.rows)
    data = stored.stored(FACTS, _Facts).data.model_dump()
    return StoredRun(path, config, data, rows, report.groups, report.seconds)


_rows: TypeAdapter[Row] = TypeAdapter(Row)


def _row(path: Path, document: Mapping[str, Any]) -> Row:
    """A line; an earlier version wrote fewer numbers of it."""
    try:
        later: dict[str, Any] = {"head": None, "middle": None, "tail": None}
        if "geometric_mean" not in document:
            later["geometric_mean"] = geometric_mean(document["per_class"])
        confusion = confusion_matrix(document["confusion"])
        return _rows.validate_python({**later, **document, "confusion": confusion})
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged, or from another version of ltdd.") from error
