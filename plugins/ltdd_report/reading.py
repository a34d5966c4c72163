"""What the folder of a run holds; docs/file-formats.md describes the files.

Every file that a command of this plugin reads is read and checked here.  A file that is damaged, or does not go with
the others, is an :class:`InputError` of one line that names it.
"""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ltdd_core import (
    Display,
    DistilledSet,
    InputError,
    LongTailedSet,
    confusion_matrix,
    load_data,
    load_distilled,
    load_tensors,
    read_run as read_stored,
)
from ltdd_report.damage import checked, read_json, reading
from ltdd_report.documents import Configuration, Document, Facts, LossLine, Report, SecondsLine
from ltdd_report.place import CONFIG, FACTS, REPORT, check_run
from ltdd_report.visible import visible

TEMPERATURE = ": temperature"
METRICS, TIMES = "metrics.jsonl", "times.jsonl"
DISTILLED, PREDICTIONS = "distilled.safetensors", "predictions.safetensors"
LOGS: Mapping[str, tuple[type[Document], str]] = {METRICS: (LossLine, "loss"), TIMES: (SecondsLine, "seconds")}
ABOVE_ONE = 1e-3  # by how much a log-probability in fp32 may be above 0
NO_METHOD = {"name": "none"}  # as an earlier version wrote it; today there is no matcher then
NOT_DISTILLED = "is not the folder of a run that distilled something: ltdd distill makes those."


@dataclass(frozen=True)
class Record:
    """A finished folder with classifiers, as its files tell it."""

    path: Path
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    """``name``, ``classes``, ``counts``, ``images``, ``test_images``, ``imbalance``, ``image_shape``."""
    sessions: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any]

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The lines of the table."""
        return list(self.report["rows"])


@dataclass(frozen=True)
class RunRecord(Record):
    """A finished run that distilled something."""

    steps: Tensor
    """int64 ``[n]``, and the loss after each, float64 ``[n]``."""
    losses: Tensor
    seconds: Tensor
    """Of each step, float64 ``[n]``; empty for a run of an earlier version."""
    distilled: DistilledSet

    @property
    def title(self) -> str:
        """Method, data and length."""
        config = self.config
        return f"{config['matcher']['name']} on {self.data['name']}, {self.distilled.ipc_in_words()}"

    @property
    def groups(self) -> list[list[str]] | None:
        """Class names by group, where a classifier had a partition."""
        groups: list[list[str]] | None = self.report["groups"]
        return groups

    @property
    def partition_has_no_say(self) -> bool:
        """Whether the head pools its stages with one exponent for group and class, so that groups cancel out.

        An exponent that the head chooses by itself is not known here.
        """
        head = self.config["head"]
        a, b = head.get("a"), head.get("b")
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
        return numbers and a == b and head.get("routing") != "hard"


def read_run(path: Path) -> RunRecord:
    """Read a finished run.

    Raises:
        InputError: it is not the folder of a finished run, or a file in it is damaged or belongs to another run.
    """
    if (path / REPORT).exists() and not (path / FACTS).exists():
        raise InputError(f"{path} {NOT_DISTILLED}")
    if not (path / REPORT).exists():
        check_run(path)
        raise InputError(f"{path} is not finished: {resume_command(path)}.")
    config, facts, report = read_config(path), read_json(path / FACTS, Facts), read_report(path)
    steps, losses = read_log(path / METRICS)
    if (path / METRICS).exists() and steps[-1:] != [config["iterations"] - 1]:
        raise InputError(f"{path / METRICS} is damaged: the run took {config['iterations']} steps and it lacks some.")
    with reading(path / DISTILLED):
        distilled = load_distilled(path)
    record = RunRecord(
        path,
        config,
        facts["data"],
        tuple(facts["sessions"]),
        report,
        torch.tensor(steps, dtype=torch.int64),
        torch.tensor(losses, dtype=torch.float64),
        torch.tensor(read_log(path / TIMES)[1], dtype=torch.float64),
        distilled,
    )
    _check_same_run(record)
    _check_images(record)
    return record


def resume_command(path: Path) -> str:
    """What to type to finish a run."""
    return f"ltdd distill --out {shlex.quote(str(path))} --resume"


def read_config(path: Path) -> Mapping[str, Any]:
    """The configuration of the run in a folder.

    Raises:
        InputError: there is none, it is damaged, or the run distils nothing.
    """
    file = path / CONFIG
    with reading(file):
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    if isinstance(tree, dict):
        tree.setdefault("matcher", NO_METHOD)
    with reading(file):
        Configuration.model_validate(tree)
        json.dumps(tree)  # plain data: no dates, nothing that holds itself
    if tree["matcher"]["name"] == NO_METHOD["name"]:
        raise InputError(f"{path} {NOT_DISTILLED}")
    config: Mapping[str, Any] = tree
    return config


def read_data_name(path: Path, config: Mapping[str, Any]) -> str:
    """What the run in a folder calls its data; before it has read them, what its configuration says.

    Raises:
        InputError: its file is damaged.
    """
    if (path / FACTS).exists():
        return str(read_json(path / FACTS, Facts)["data"]["name"])
    return str(config["data"].get("title") or config["data"]["name"])


def read_report(path: Path) -> Mapping[str, Any]:
    """The result of the finished run in a folder.

    Raises:
        InputError: there is none, or it is damaged.
    """
    return read_result(path, Report)


def read_log(path: Path) -> tuple[list[int], list[float]]:
    """The steps of a log and the loss or the seconds of each; nothing where there is no log.

    A method that takes no steps has none.

    Raises:
        InputError: it is damaged.
    """
    if not path.exists():
        return [], []
    model, key = LOGS[path.name]
    with reading(path):
        *lines, _ = path.read_bytes().split(b"\n")  # after the last line feed: what is being written
    entries = []
    for number, line in enumerate(lines, 1):
        with reading(path, f"line {number}: "):
            entries.append(checked(json.loads(line.decode()), model))
    steps = [entry["step"] for entry in entries]
    if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
        raise InputError(f"{path} is damaged: its steps are not in order.")
    return steps, [float(entry[key]) for entry in entries]


def shown_images(run: RunRecord) -> tuple[Tensor, Tensor]:
    """The distilled images as they look, float32 ``[n, C, H, W]`` in [0, 1], and the class of each, int64 ``[n]``.

    They are decoded.

    Raises:
        InputError: the normalisation that is kept with them cannot be undone, or their decoder is not installed.
    """
    path = run.path / DISTILLED
    try:
        distilled = run.distilled.decoded()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    with reading(path):
        images = distilled.normalisation.invert(distilled.images)
        if not bool(torch.isfinite(images).all()):
            raise ValueError
    return images, distilled.labels


def predictions(run: Record, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The log-probabilities of every test image, float32 ``[N, classes]``, for each line of the table.

    Args:
        run: whose predictions.
        names: what they are called in the file; as the lines of the table unless given.

    Raises:
        InputError: a line is not there, or what is there cannot be its log-probabilities.
    """
    path = run.path / PREDICTIONS
    names = [row["name"] for row in run.rows] if names is None else names
    with reading(path):
        tensors, _ = load_tensors(path)
    shape = (run.data["test_images"], len(run.data["classes"]))
    for name in names:
        log_p = tensors.get(name)
        if log_p is None:
            raise InputError(f"{path} has nothing of the line {name!r}.")
        if tuple(log_p.shape) != shape or not log_p.is_floating_point():
            raise InputError(f"{path} is damaged: the line {name!r} is not {shape[0]} x {shape[1]} numbers.")
        if not bool((log_p <= ABOVE_ONE).all()) or bool(log_p.isneginf().all(1).any()):  # NaN is not below anything
            raise InputError(f"{path} is damaged: the line {name!r} has values that are no log-probabilities.")
    return {name: tensors[name] for name in names}


def temperatures(run: RunRecord) -> dict[str, float]:
    """The temperature of each line whose probabilities are calibrated; none where there were no validation images.

    Raises:
        InputError: one of them cannot be a temperature.
    """
    path, found = run.path / PREDICTIONS, dict[str, float]()
    with reading(path):
        tensors, _ = load_tensors(path)
    for row in run.rows:
        value = tensors.get(f"{row['name']}{TEMPERATURE}")
        if value is None:
            continue
        if value.dtype != torch.float64 or value.shape != (1,) or not 0 < float(value) < float("inf"):
            raise InputError(f"{path} is damaged: the line {row['name']!r} has a temperature that is none.")
        found[row["name"]] = float(value)
    return found


def data_of(run: Record, root: Path | None = None) -> LongTailedSet:
    """The long-tailed set of a run, loaded again.

    Args:
        run: whose data.
        root: where they are now, if they have moved.

    Raises:
        InputError: the data are not where the run found them, or are others now.
    """
    if isinstance(run, RunRecord):
        return read_stored(run.path).load_data(root=root, display=Display())
    options = {**run.config["data"], **({} if root is None else {"root": root})}
    name = options.pop("name")
    data = load_data(name, display=Display(), **options)
    if not has_data_of(run, data):
        raise InputError(f"{run.path} has classifiers of other images than those of the data set {data.name!r} now.")
    return data


def test_set(run: Record) -> tuple[Tensor, Tensor]:
    """The test images as the data source has them, uint8 ``[N, C, H, W]``, and their labels, int64 ``[N]``.

    Raises:
        InputError: as :func:`data_of`.
    """
    data = data_of(run)
    return data.test_images, data.test_labels


def has_data_of(run: Record, data: LongTailedSet) -> bool:
    """Whether a data set has the classes, the sizes and the images of a run; an earlier version noted no digest."""
    expected = (run.data["classes"], run.data["counts"], run.data["test_images"], run.data["image_shape"])
    sizes = (list(data.class_names), list(data.counts), len(data.test_labels), list(data.image_shape))
    return expected == sizes and run.data.get("digest") in (None, data.digest)


def check_predictions(run: RunRecord, name: str, log_p: Tensor, labels: np.ndarray) -> None:
    """Refuse predictions that are not those of the table.

    Args:
        run: whose they are.
        name: of the line.
        log_p: log-probabilities, float32 ``[N, classes]``.
        labels: int64 ``[N]``.

    Raises:
        InputError: the table has other accuracies.
    """
    (row,) = (row for row in run.rows if row["name"] == name)
    hits = np.bincount(labels[log_p.argmax(1).numpy() == labels], minlength=len(row["per_class"])).tolist()
    if hits != [line[label] for label, line in enumerate(row["confusion"])]:
        raise InputError(f"{run.path / PREDICTIONS} does not go with {REPORT}: the line {name!r} has other accuracies.")


def read_result(path: Path, model: type[Document]) -> Mapping[str, Any]:
    """``report.json`` in a folder, with whole confusion matrices.

    Raises:
        InputError: it is damaged.
    """
    report = read_json(path / REPORT, model)
    for row in report["rows"]:
        row["confusion"] = confusion_matrix(row["confusion"])
    return report


def _check_same_run(run: RunRecord) -> None:
    """Refuse files of different runs."""
    if run.report["data"] != run.data:
        raise InputError(f"{run.path}: {REPORT} and {FACTS} are about different data.")
    if list(run.distilled.class_names) != run.data["classes"]:
        raise InputError(f"{run.path}: {DISTILLED} and {FACTS} have different classes.")
    if run.config["matcher"]["name"] != run.report["method"]:
        raise InputError(f"{run.path}: {CONFIG} and {REPORT} name different methods.")
    recorded = run.distilled.origin.get("configuration") if isinstance(run.distilled.origin, dict) else None
    place = _difference({**run.config, "compute": {}}, recorded)
    if place is not None:
        raise InputError(f"{run.path}: {CONFIG} and {DISTILLED} differ in {visible(place)}, so they are of two runs.")


def _difference(first: Any, second: Any, place: str = "") -> str | None:
    """Where two trees first have different values at a key that both have; None if they do not."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return None if first == second else place
    shared = [key for key in first if key in second and (place, key) not in (("data", "root"), ("data", "title"))]
    places = (_difference(first[key], second[key], f"{place}.{key}" if place else key) for key in shared)
    return next((difference for difference in places if difference is not None), None)


def _check_images(run: RunRecord) -> None:
    """Refuse distilled images that are not of the data of the run."""
    distilled, path = run.distilled, run.path / DISTILLED
    if distilled.decoder is None and list(distilled.images.shape[1:]) != run.data["image_shape"]:
        raise InputError(f"{run.path}: {DISTILLED} and {FACTS} have images of different sizes.")
    if len(distilled.labels.unique()) < len(distilled.class_names):
        raise InputError(f"{path} is damaged: a class has no image.")
