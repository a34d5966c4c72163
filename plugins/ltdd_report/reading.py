"""What the folder of a finished run holds; docs/file-formats.md describes the files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ltdd_core import (
    Distillation,
    DistilledSet,
    InputError,
    configure,
    generator,
    load_data,
    load_distilled,
    load_tensors,
)
from ltdd_core.commands import open_setup, task_of

ROW = {
    *("name", "images", "accuracy", "std", "many", "medium", "few", "worst", "harmonic_mean", "group_accuracy"),
    *("calibration_error", "per_class", "confusion"),
}
"""What a line of the table must have."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run, as its files tell it."""

    path: Path
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    """``name``, ``classes``, ``counts``, ``images``, ``test_images``, ``imbalance``, ``image_shape``."""
    sessions: tuple[Mapping[str, Any], ...]
    report: Mapping[str, Any]
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
        return f"{config['matcher']['name']} on {self.data['name']}, {config['ipc']} images a class"

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The lines of the table."""
        return list(self.report["rows"])

    @property
    def groups(self) -> list[list[str]] | None:
        """Class names by group, where a classifier had a partition."""
        groups: list[list[str]] | None = self.report["groups"]
        return groups

    @property
    def partition_has_no_say(self) -> bool:
        """Whether the head pools its stages with one exponent for group and class, so that groups cancel out."""
        head = self.config["head"]
        return "a" in head and head["a"] == head.get("b") and head.get("routing") != "hard"


def read_run(path: Path) -> RunRecord:
    """Read a finished run.

    Raises:
        InputError: it is not the folder of a finished run, or a file in it is damaged.
    """
    if (path / "report.json").exists() and not (path / "run.json").exists():
        raise InputError(f"{path} is not the folder of a run that distilled something: ltdd distill makes those.")
    if not (path / "report.json").exists():
        begun = (path / "config.yaml").exists()
        what = f"is not finished: ltdd distill --out {path} --resume" if begun else "is not the folder of a run"
        raise InputError(f"{path} {what}.")
    try:
        config = yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8"))
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        steps, losses = read_log(path / "metrics.jsonl", "loss")
        _, seconds = read_log(path / "times.jsonl", "seconds")
        record = RunRecord(
            path,
            config,
            facts["data"],
            tuple(facts["sessions"]),
            report,
            torch.tensor(steps, dtype=torch.int64),
            torch.tensor(losses, dtype=torch.float64),
            torch.tensor(seconds, dtype=torch.float64),
            load_distilled(path),
        )
        if not record.rows or not record.title:
            raise ValueError("it has no rows")
        for row in record.rows:
            lost = ROW - row.keys()
            if lost:
                raise ValueError(f"a line has no {min(lost)!r}")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{path} holds a run that cannot be read: {error}.") from error
    return record


def read_log(path: Path, key: str) -> tuple[list[int], list[float]]:
    """The steps of a log and a value of each; nothing where a method takes no steps and there is no log.

    Raises:
        OSError, ValueError, KeyError, TypeError: the log cannot be read, or has no such value.
    """
    if not path.exists():
        return [], []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")  # after the last line feed: what is being written
    entries = [json.loads(line) for line in lines]
    return [int(entry["step"]) for entry in entries], [float(entry[key]) for entry in entries]


def initial_images(run: RunRecord) -> Tensor | None:
    """What the distilled images began as, float32 ``[classes * ipc, C, H, W]``, normalised; drawn again from the seed.

    None where they cannot be had: the data are not here, the method starts from something else, or a network would
    have to be trained to choose them.
    """
    if run.config["init"] not in ("real", "noise"):
        return None
    settings = {key: value for key, value in run.config.items() if key != "compute"}
    try:
        with open_setup(configure(**settings, compute={"device": "cpu"}), folder=run.path) as setup:
            task = task_of(setup)
            if run.config["init"] == "real" and _chosen_by_features(task):
                return None
            images = task.initial_images
    except InputError:
        return None
    return images if images.shape == run.distilled.images.shape else None


def _chosen_by_features(task: Distillation) -> bool:
    """Whether the sampler asks for features, and so for a trained network, to choose the initial images."""

    class Asked(Exception):
        """The answer."""

    def features(label: int) -> Tensor:
        raise Asked

    draws = generator(task.seed, "who chooses")
    try:
        for label in range(task.data.classes):
            task.sampler.representatives(label, task.ipc, draws, features)
    except Asked:
        return True
    return False


def predictions(run: RunRecord) -> dict[str, Tensor]:
    """The log-probabilities of every test image, float32 ``[N, classes]``, for each line of the table."""
    tensors, _ = load_tensors(run.path / "predictions.safetensors")
    missing = [row["name"] for row in run.rows if row["name"] not in tensors]
    if missing:
        raise InputError(f"{run.path / 'predictions.safetensors'} has nothing of the line {missing[0]!r}.")
    return {row["name"]: tensors[row["name"]] for row in run.rows}


def test_set(run: RunRecord) -> tuple[Tensor, Tensor]:
    """The test images as the source has them, uint8 ``[N, C, H, W]``, and their labels, int64 ``[N]``.

    Raises:
        InputError: the data are not where the run found them.
    """
    section = dict(run.config["data"])
    data = load_data(section.pop("name"), **section)
    return data.test_images, data.test_labels
